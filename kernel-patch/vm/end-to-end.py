"""What the wheel does to real queues of other processes, on fake GPUs. Prints TAP.

usage: end-to-end.py [SCENARIO ...]
"""

from __future__ import annotations

import io
import os
import re
import runpy
import subprocess
import sys
import time
import traceback
from contextlib import redirect_stdout
from pathlib import Path
from typing import Callable

sys.path[:0] = ["/wheel", "/seed", "/"]

import gpreempt  # noqa: E402
from gpreempt import clock  # noqa: E402
from workers import Worker, count_gpus, wait_until  # noqa: E402

FAKE = Path("/sys/kernel/debug/kfd_fake")
GPUS = count_gpus()
number = 0
failures = 0


def errors() -> int:
    return sum(int(path.read_text().split()[0]) for path in FAKE.glob("*/node*/errors"))


def rounds() -> list[int]:
    """Of each GPU, by the count of its firmware."""
    texts = [(FAKE / str(gpu) / "node0" / "status").read_text() for gpu in range(GPUS)]
    return [int(re.search(r"^unmap (\d+)$", text, re.M)[1]) for text in texts]  # type: ignore[index]


def scenario(test: Callable[[], None]) -> None:
    """Runs it in a process of its own, so that no session, lease or worker is left of it."""
    global number, failures
    number += 1
    sys.stdout.flush()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        try:
            test()
        except BaseException:
            print("".join("# " + line + "\n" for line in traceback.format_exc().splitlines()), end="", flush=True)
            os._exit(1)
        os._exit(0)
    bad = os.waitpid(pid, 0)[1] != 0 or errors() != 0
    failures += bad
    print(f"{'not ' if bad else ''}ok {number} python: {test.__name__} with {GPUS} GPUs")
    print(f"# in {time.monotonic() - start:.1f} s", flush=True)


def discovery_finds_the_queues_of_other_processes() -> None:
    offline, online = Worker(3, priority=2), Worker(1, priority=12)
    with gpreempt.Session() as session:
        found = session.queues()
        assert session.tiers()[0] == "patched", session.tiers()
        assert sorted(q.pid for q in found) == sorted([offline.pid] * 3 * GPUS + [online.pid] * GPUS), found
        assert len({q.queue_id for q in found}) == 4 * GPUS and len({q.gpu_id for q in found}) == GPUS
        assert all(q.type == "compute" and q.ring_bytes == 64 * 1024 and q.active for q in found), found
        low = gpreempt.scan_queues_by_priority(0, 5, session)
        assert [q.pid for q in low] == [offline.pid] * 3 * GPUS, low
        status = session.status()
        assert (status.total, status.active, status.nodes) == (24 * GPUS, 4 * GPUS, GPUS), status
    assert offline.end() == 0 and online.end() == 0


def a_scheduler_unmaps_the_queues_of_other_processes_while_a_request_runs() -> None:
    offline, online = [Worker(3, priority=2), Worker(2, priority=3)], Worker(1, priority=12)
    with gpreempt.SmartQueueScheduler() as scheduler:
        for queue in gpreempt.scan_queues_by_priority(0, 5):
            scheduler.register_offline_queue(queue)
        assert len(scheduler.offline_queues) == 5 * GPUS
        for _ in range(3):
            assert all(worker.runs() for worker in offline)
            with scheduler.online() as request:
                assert (request.unmapped, request.rounds, request.error) == (5 * GPUS, GPUS, None), request.rounds
                assert all(worker.stands_while(online) for worker in offline)
            assert all(worker.is_whole() for worker in offline)
        assert scheduler.handle_online_request(lambda: 42) == 42
        assert scheduler.stats["batch_unmap_count"] == 4
    assert all(worker.is_whole() for worker in [*offline, online])
    assert [worker.end() for worker in [*offline, online]] == [0, 0, 0]


def one_batch_costs_each_gpu_one_round_by_its_own_count() -> None:
    offline, online = [Worker(4) for _ in range(3)], Worker(1)
    with gpreempt.Session() as session:
        queues = [q for q in session.queues() if q.pid != online.pid]
        for queue in queues:
            session.set_policy(queue, gpreempt.QueuePolicy.PREEMPTIBLE)
        before = rounds()
        batch = session.unmap(queues)
        assert [now - then for now, then in zip(rounds(), before)] == [1] * GPUS
        assert (batch.queues, batch.nodes, batch.rounds) == (12 * GPUS, GPUS, GPUS), batch
        assert not any(session.is_active(q) for q in queues)
        assert all(worker.stands_while(online) for worker in offline)
        assert session.remap(queues).queues == 12 * GPUS
        assert all(worker.is_whole() for worker in offline)
    assert [worker.end() for worker in [*offline, online]] == [0] * 4


def a_queue_that_is_not_preemptible_is_left_alone() -> None:
    worker = Worker(1)
    with gpreempt.Session() as session:
        try:
            session.unmap(session.queues())
            raise AssertionError("it was unmapped")
        except gpreempt.errors.PermissionDenied:
            pass
        assert worker.is_whole()
    assert worker.end() == 0


def queues_that_come_during_a_request_wait_for_its_end() -> None:
    offline, online = Worker(2), Worker(1)
    with gpreempt.SmartQueueScheduler(online_percent=None) as scheduler:
        assert scheduler.register_offline_process(offline.pid) == 2 * GPUS
        with scheduler.online():
            offline.create_one()
            assert offline.stands_while(online) and offline.late.done == 0
        assert wait_until(lambda: offline.late.done > 3)
        assert offline.is_whole()
    assert offline.end() == 0 and online.end() == 0


def a_hundred_offline_queues_on_24_slots_all_progress() -> None:
    workers = [Worker(25, gpus=1, depth=4) for _ in range(4)]
    assert all(worker.runs(2) for worker in workers)
    # The policy that lets throttled queues take turns.
    with gpreempt.SmartQueueScheduler(policy="reserve", online_percent=50, offline_percent=50) as scheduler:
        for worker in workers:
            scheduler.register_offline_process(worker.pid)
        gpu = scheduler.session.queues()[0].gpu_id
        assert wait_until(lambda: scheduler.session.status(gpu).throttled == 88), scheduler.session.status(gpu)
        status = scheduler.session.status(gpu)
        assert (status.offline_max, status.offline_used, status.active) == (12, 12, 12), status
        for _ in range(2):
            assert all(worker.runs(2) for worker in workers)
    assert all(worker.is_whole() for worker in workers)
    assert [worker.end() for worker in workers] == [0] * 4


def a_monitor_sees_the_slots_and_calls_when_few_are_free() -> None:
    low: list[int] = []
    with gpreempt.Session() as session:
        with gpreempt.HQDResourceMonitor(session, interval=0.02, on_low=lambda gpu, status: low.append(gpu)) as monitor:
            assert monitor.current_status and monitor.current_status.free == 24 * GPUS and not low
            worker = Worker(23)
            assert wait_until(lambda: monitor.current_status.free == GPUS)  # type: ignore[union-attr]
            assert wait_until(lambda: len(low) == GPUS) and len(set(low)) == GPUS
            assert worker.end() == 0
            assert wait_until(lambda: monitor.current_status.free == 24 * GPUS)  # type: ignore[union-attr]


def the_script_of_the_seed_preempts_the_two_programs_that_it_starts() -> None:
    def sleep(seconds: float) -> None:
        """In place of the script's pauses: waits for what they are to wait for."""
        wanted = {2: range(0, 6), 1: range(10, 16)}.get(int(seconds))
        if wanted:
            assert wait_until(lambda: bool(gpreempt.scan_queues_by_priority(wanted[0], wanted[-1])))
        time.sleep(0.05)

    os.chdir("/seed")
    os.environ.update(PYTHONPATH="/wheel", PATH="/:" + os.environ["PATH"])
    clock.sleep = sleep
    pieces: list[subprocess.Popen[str]] = []

    class Piece(subprocess.Popen):  # type: ignore[type-arg]
        """Keeps what the two programs say."""

        def __init__(self, command: list[str]) -> None:
            super().__init__(command, stdout=subprocess.PIPE, text=True)
            pieces.append(self)

    subprocess.Popen = Piece  # type: ignore[misc, assignment]
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            runpy.run_path("test_new_preemption_scheme.py", run_name="__main__")
    finally:
        print("".join("#   " + line + "\n" for line in said.getvalue().splitlines()[-12:]), end="")
    text = said.getvalue()
    assert f"Total: {24 * GPUS}" in text and f"发现{4 * GPUS}个Offline队列" in text, text
    assert f"发现{GPUS}个Online队列" in text and "测试完成" in text, text
    assert "Batch unmaps: 20" in text and "Fast remaps: 20" in text, text
    for piece in pieces:
        output = piece.communicate()[0]
        assert piece.returncode == 0 and "each once and in order" in output, output


TESTS: list[Callable[[], None]] = [
    discovery_finds_the_queues_of_other_processes,
    a_scheduler_unmaps_the_queues_of_other_processes_while_a_request_runs,
    one_batch_costs_each_gpu_one_round_by_its_own_count,
    a_queue_that_is_not_preemptible_is_left_alone,
    queues_that_come_during_a_request_wait_for_its_end,
    a_hundred_offline_queues_on_24_slots_all_progress,
    a_monitor_sees_the_slots_and_calls_when_few_are_free,
    the_script_of_the_seed_preempts_the_two_programs_that_it_starts,
]

if __name__ == "__main__":
    for each in TESTS:
        if len(sys.argv) == 1 or each.__name__ in sys.argv:
            scenario(each)
    sys.exit(failures != 0)
