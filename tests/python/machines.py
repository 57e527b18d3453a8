"""Simulated machines for the tests: guests, their queues and their work, as scenario files."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

import gpreempt


@dataclass(frozen=True)
class Guest:
    """A guest process: ``queues`` equal queues on each of its nodes, with packets of ``packet_ms`` always waiting."""

    pid: int
    queues: int = 1
    nodes: tuple[int, ...] = (0,)
    priority: int = 2
    packet_ms: Optional[float] = 5.0
    name: str = "python3"
    cgroup: str = "/"

    def toml(self) -> str:
        work = "work = 'manual'"
        if self.packet_ms is not None:
            packet_us = self.packet_ms * 1000
            work = f"work = {{ continuous = {{ packet_us = {packet_us}, occupancy = 0.25, depth = 4 }} }}"
        return (
            f"[[process]]\nname = '{self.name}'\npid = {self.pid}\ncgroup = '{self.cgroup}'\n"
            f"[[process.queue]]\nnodes = {list(self.nodes)}\ncount = {self.queues}\npriority = {self.priority}\n{work}\n"
        )


# Pids near the largest there are: a guest cannot have the pid of the process that runs the machine.
TRAINER = Guest(4_182_001, queues=4, priority=2, name="train", cgroup="/offline")
SECOND_TRAINER = Guest(4_182_002, queues=2, nodes=(1,), priority=4, name="train", cgroup="/offline")
SERVER = Guest(4_183_001, priority=12, name="serve", cgroup="/online")


@dataclass
class Machine:
    """A machine for one test; ``open()`` boots it on a virtual clock."""

    folder: Path
    guests: tuple[Guest, ...] = (TRAINER, SECOND_TRAINER, SERVER)
    head: str = ""
    faults: list[str] = field(default_factory=list)

    def file(self) -> Path:
        """The scenario file."""
        path = self.folder / f"machine-{len(list(self.folder.iterdir()))}.toml"
        guests = "\n".join(guest.toml() for guest in self.guests)
        path.write_text(f"name = 'test'\n{self.head}\n{guests}\n" + "\n".join(self.faults))
        return path

    def gone_at(self, pid: int, seconds: float) -> None:
        """Kills a guest at a time of the machine's clock."""
        self.faults.append(
            f"[[fault]]\nat = {{ time-ms = {seconds * 1000} }}\nwhat = {{ process-gone = {{ pid = {pid} }} }}\n"
        )

    def open(self, **options: Any) -> gpreempt.Session:
        """A session on it."""
        options = {"clock": "virtual", "cost_model": "design", "scenario": self.file(), **options}
        return gpreempt.Session("sim", **options)


def queues_of(session: gpreempt.Session, guest: Guest) -> list[gpreempt.QueueInfo]:
    """The queues of a guest."""
    return [queue for queue in session.queues() if queue.pid == guest.pid]


def make_offline(session: gpreempt.Session, *guests: Guest) -> list[gpreempt.QueueInfo]:
    """The queues of some guests, now PREEMPTIBLE."""
    queues = [queue for guest in guests for queue in queues_of(session, guest)]
    for queue in queues:
        session.set_policy(queue, gpreempt.QueuePolicy.PREEMPTIBLE)
    return queues


def packets_done(session: gpreempt.Session, queues: list[gpreempt.QueueInfo]) -> int:
    """How many packets the GPU has taken from the rings of some queues."""
    done = 0
    for queue in queues:
        read_ptr = session.queue_status(queue).read_ptr
        assert read_ptr is not None
        done += read_ptr
    return done
