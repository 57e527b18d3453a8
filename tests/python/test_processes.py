"""Ctrl-C, fork, threads, and the default session."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.connection import Connection

import pytest

import gpreempt
from gpreempt import Session, StaleError, clock
from machines import TRAINER, Machine, make_offline

# CPython warns of any fork with threads; that this one is safe is what is tested.
pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")

WAITS = {
    "sleep": "waiting(); session.sleep(600)",
    "clock": "waiting(); gpreempt.clock.sleep(600)",
    "online": "scheduler.handle_online_request(lambda: (waiting(), session.sleep(600)))",
    "watch": "asyncio.run(watch())",
}
WAIT_SCRIPT = """
import asyncio, os, sys
import gpreempt, gpreempt.clock
os.environ["GPREEMPT_SIM_CLOCK"] = "real"
session = gpreempt.default_session()
scheduler = gpreempt.SmartQueueScheduler(session)
monitor = gpreempt.HQDResourceMonitor(session, interval=600)
monitor.start()
def waiting():
    print("waiting", flush=True)
async def watch():
    waiting()
    async for status in monitor.watch():
        pass
try:
    {wait}
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("wait", WAITS)
def test_ctrl_c_ends_a_wait(wait: str) -> None:
    program = subprocess.Popen(
        [sys.executable, "-c", WAIT_SCRIPT.format(wait=WAITS[wait])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "waiting\n"
    program.send_signal(signal.SIGINT)
    output, errors = program.communicate(timeout=50)
    assert (output, errors, program.returncode) == ("interrupted\n", "", 0)


def child(session: Session, handle: int, answers: Connection) -> None:
    """What a forked child sees: its parent's session is of no use, its own default session is new."""
    try:
        session.unmap([handle])
    except StaleError as error:
        answers.send(str(error))
    session.close()
    own = gpreempt.default_session()
    answers.send([own is session, own.status().preempted, own.closed])
    answers.close()


def test_a_forked_child_leaves_its_parent_s_queues_alone() -> None:
    session = gpreempt.default_session()
    queues = gpreempt.scan_queues_by_priority(0, 5)
    for queue in queues:
        session.set_policy(queue, gpreempt.QueuePolicy.PREEMPTIBLE)
    session.unmap(queues)
    held = session.status().preempted
    monitor = gpreempt.HQDResourceMonitor(session)
    monitor.start()
    scheduler = gpreempt.SmartQueueScheduler(session)
    with scheduler.online():
        fork = multiprocessing.get_context("fork")
        receiver, sender = fork.Pipe(duplex=False)
        process = fork.Process(target=child, args=(session, queues[0].queue_id, sender))
        process.start()
        sender.close()
        assert "forked process" in receiver.recv()
        assert receiver.recv() == [False, 0, False]
        process.join()
        assert process.exitcode == 0
    assert session.status().preempted == held == len(queues)
    assert monitor.running


def test_a_forked_child_exits_like_any_other() -> None:
    session = gpreempt.default_session()
    monitor = gpreempt.HQDResourceMonitor(session)
    monitor.start()
    scheduler = gpreempt.SmartQueueScheduler(session)
    window = scheduler.online()
    window.__enter__()
    pid = os.fork()
    if pid == 0:
        try:
            monitor.stop()
            del monitor, window, scheduler, session
            status = 0 if gpreempt.default_session().status().total else 1
        except BaseException:
            status = 2
        os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    window.__exit__(None, None, None)
    scheduler.cleanup()


def test_threads_share_a_session(machine: Machine) -> None:
    with machine.open() as session:
        queues = make_offline(session, TRAINER)
        failures: list[BaseException] = []

        def work(queue: gpreempt.QueueInfo) -> None:
            try:
                for _ in range(50):
                    session.unmap([queue])
                    assert not session.is_active(queue)
                    session.remap([queue])
                    assert session.is_active(queue)
                    session.status()
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(queue,)) for queue in queues]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failures == []


def test_a_blocked_call_lets_other_threads_run() -> None:
    with Session("sim", clock="real", empty=True) as session:
        ended = threading.Event()

        def sleeper() -> None:
            session.sleep(0.5)
            ended.set()

        thread = threading.Thread(target=sleeper)
        thread.start()
        counted = 0
        while not ended.is_set():
            counted += 1
        thread.join()
        # A thread that was kept waiting would have counted a handful of times.
        assert counted > 1000


def test_the_default_session_is_one_and_is_made_anew_after_a_close() -> None:
    first = gpreempt.default_session()
    assert gpreempt.default_session() is first
    first.close()
    second = gpreempt.default_session()
    assert second is not first and not second.closed
    assert "closed" in repr(first) and "simulated" in repr(second)


def test_the_clock_has_the_names_of_time_and_the_time_of_the_machine() -> None:
    before = clock.time()
    clock.sleep(3600)
    assert clock.monotonic() - before == pytest.approx(3600, abs=0.001)
    assert gpreempt.default_session().now() == pytest.approx(clock.perf_counter(), abs=0.001)


def test_the_same_seed_gives_the_same_run(machine: Machine) -> None:
    def run() -> list[float]:
        with machine.open(seed=7) as session:
            queues = make_offline(session, TRAINER)
            times = []
            for _ in range(20):
                times.append(session.unmap(queues).elapsed_s)
                session.remap(queues)
                session.sleep(0.01)
            return [*times, session.now()]

    assert run() == run()
