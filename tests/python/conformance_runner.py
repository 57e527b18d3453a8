#!/usr/bin/env python3
"""Plays a list of calls through the Python API: one command per line in, one answer per command out.

The commands are those of tests/c/conformance.c, which describes them.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable, Iterable
from typing import Any, Optional

import gpreempt
from gpreempt import GpreemptError, QueueInfo, Session


def _status(session: Session) -> str:
    s = session.status()
    return f"0 {s.total} {s.active} {s.free} {s.online_reserved} {s.offline_used}"


def _status_of(session: Session, gpu: int) -> str:
    s = session.status(gpu)
    fields = [s.total, s.active, s.free, s.online_reserved, s.offline_used, s.offline_max]
    fields += [s.num_xcc, s.preempted, s.throttled, s.queues_total, s.nodes]
    return " ".join(map(str, [0, *fields]))


def _found(queues: Iterable[QueueInfo]) -> str:
    words: list[Any] = []
    for q in queues:
        priority = -1 if q.priority is None else q.priority
        active = -1 if q.active is None else int(q.active)
        words += [q.queue_id, q.pid, q.kfd_id, q.gpu_id, priority, active]
    return " ".join(map(str, [len(words) // 6, *words]))


def _idle(session: Session) -> str:
    idle = session.idle_offline_queues()
    return " ".join(map(str, [len(idle), *idle]))


def _done(result: object) -> str:
    return "0"


COMMANDS: dict[str, Callable[..., str]] = {
    "unmap": lambda s, grace_us, *queues: _done(s.unmap(queues, grace_us * 1e-6)),
    "remap": lambda s, *queues: _done(s.remap(queues)),
    "selective": lambda s, flags, *queues: _done(s.selective_unmap(queues, flags)),
    "remap_one": lambda s, queue, slot: _done(s.fast_remap(queue, slot)),
    "reserve": lambda s, *numbers: _done(s.set_reservation(*numbers)),
    "status": _status,
    "status_of": _status_of,
    "policy": lambda s, queue, flags: _done(s.set_policy(queue, flags)),
    "state": lambda s, queue, state: _done(s.set_queue_state(queue, state)),
    "active": lambda s, queue: str(int(s.is_active(queue))),
    "idle": _idle,
    "register": lambda s, *numbers: f"0 {s.register_queue(*numbers)}",
    "find_all": lambda s: _found(s.queues()),
    "find_priority": lambda s, low, high: _found(gpreempt.scan_queues_by_priority(low, high, s)),
    "find_process": lambda s, pid: _found(queue for queue in s.queues() if queue.pid == pid),
}


class Runner:
    """One list of calls."""

    def __init__(self) -> None:
        self.session: Optional[Session] = None
        self.last_error = ""

    def answer(self, command: str, numbers: list[int]) -> str:
        """The answer to one command."""
        try:
            if command == "init":
                self.session = Session()
                return "0"
            if command == "error":
                return self.last_error
            if self.session is None:
                return str(-errno.ENODEV)
            if command == "cleanup":
                # Kept, closed: what a caller sees who goes on using it.
                if self.session.closed:
                    return str(-errno.ENODEV)
                self.session.close()
                return "0"
            if command not in COMMANDS:
                return f"? no such command: {command}"
            return COMMANDS[command](self.session, *numbers)
        except GpreemptError as error:
            self.last_error = str(error.strerror)
            return str(-(error.errno or 0))


def main() -> None:
    """Answers standard input."""
    runner = Runner()
    for line in sys.stdin:
        words = line.split()
        if words and not words[0].startswith("#"):
            print(runner.answer(words[0], [int(word, 0) for word in words[1:]]), flush=True)


if __name__ == "__main__":
    main()
