"""Processes with real queues on fake GPUs, for end-to-end.py: they keep their queues busy until told otherwise."""

from __future__ import annotations

import ctypes
import mmap
import os
import signal
import sys
import time
from typing import Callable

import kfd_queue

# A loaded machine may need so long for anything.
SLOWEST_S = 120
GO, PAUSE, CREATE, END = range(4)
_PR_SET_PDEATHSIG = 1


def wait_until(condition: Callable[[], bool]) -> bool:
    end = time.monotonic() + SLOWEST_S
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.001)
    return True


class Worker:
    """A forked process with queues; it may make one more when told. Fork before anything has /dev/kfd open."""

    def __init__(self, queues: int, priority: int = 7, gpus: int = 64, depth: int = 32, cost_us: int = 0) -> None:
        """``queues`` on each of the first ``gpus`` GPUs."""
        self._control = mmap.mmap(-1, 4096)
        found = min(gpus, count_gpus())
        memory = [mmap.mmap(-1, kfd_queue.area_bytes()) for _ in range(found * queues + 1)]
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            try:
                self._work(memory, queues, priority, found, depth, cost_us)
                os._exit(0)
            except BaseException as error:
                print(f"# worker: {error!r}", flush=True)
                os._exit(1)
        assert wait_until(lambda: self._control[1] != 0), "the worker does not start"
        self.areas = [kfd_queue.Area(each) for each in memory[:-1]]
        self.late = kfd_queue.Area(memory[-1])

    def _work(self, memory: list[mmap.mmap], queues: int, priority: int, gpus: int, depth: int, cost_us: int) -> None:
        opened = kfd_queue.open_gpus()[:gpus]
        made = [kfd_queue.Queue(opened[i % gpus], priority, memory[i]) for i in range(gpus * queues)]
        self._control[1] = 1
        while self._control[0] != END:
            if self._control[0] == CREATE:
                made.append(kfd_queue.Queue(opened[0], priority, memory[-1]))
                self._control[0] = GO
            if self._control[0] == GO:
                for queue in made:
                    queue.feed(depth, cost_us)
            self._control[2] = self._control[0]
            time.sleep(0.001)
        for queue in made:
            queue.destroy()

    def _tell(self, what: int, until: int) -> None:
        self._control[0] = what
        assert wait_until(lambda: self._control[0] == until and self._control[2] == until), "the worker does not hear"

    def pause(self) -> None:
        self._control[2] = END
        self._tell(PAUSE, PAUSE)

    def go_on(self) -> None:
        self._control[2] = END
        self._tell(GO, GO)

    def create_one(self) -> None:
        """Lets it make one more queue, on its first GPU, and give it work."""
        self._control[2] = END
        self._tell(CREATE, GO)

    def runs(self, more: int = 3) -> bool:
        """Whether each queue does packets."""
        wanted = [area.done + more for area in self.areas]
        return wait_until(lambda: all(area.done >= want for area, want in zip(self.areas, wanted)))

    def stands_while(self, other: Worker) -> bool:
        """Whether no queue moves while those of another process do packets."""
        before = [(area.taken, area.done) for area in self.areas]
        return other.runs(20) and before == [(area.taken, area.done) for area in self.areas]

    def is_whole(self) -> bool:
        """Whether all that it submitted has run once and in order, and its queues go on."""
        good = self.runs()
        self.pause()
        good = good and wait_until(lambda: all(area.taken == area.submitted for area in self.areas))
        good = good and all(area.whole and area.done == area.submitted for area in self.areas)
        self.go_on()
        return good

    def end(self) -> int:
        self._control[0] = END
        return os.waitpid(self.pid, 0)[1]

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


def count_gpus() -> int:
    return int(kfd_queue._FAKE_NODES.read_text())
