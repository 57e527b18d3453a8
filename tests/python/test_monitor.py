"""HQDResourceMonitor: looks, warns, cleans, and stops."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
from typing import Any

import pytest

import gpreempt
from gpreempt import HQDResourceMonitor, HQDStatus, InvalidArgumentError, QueuePolicy, Session
from machines import TRAINER, Guest, Machine, packets_done, queues_of


def test_the_first_status_is_there_once_started(session: Session) -> None:
    monitor = HQDResourceMonitor(session)
    assert monitor.current_status is None and not monitor.running
    monitor.start()
    monitor.start()
    assert monitor.running
    assert monitor.current_status == session.status()
    monitor.running = False
    assert not monitor.running
    monitor.stop()
    assert monitor.current_status is not None, "the last one stays known"
    monitor.running = True
    assert monitor.running
    session.close()
    assert not monitor.running, "a monitor ends with its session"


def test_it_looks_once_per_interval(session: Session) -> None:
    with HQDResourceMonitor(session, interval=0.5, clean_idle=False) as monitor:
        queues = queues_of(session, TRAINER)
        session.set_policy(queues[0], QueuePolicy.PREEMPTIBLE)
        session.unmap([queues[0]])
        before = monitor.current_status
        session.sleep(0.6)
        after = monitor.current_status
        assert before is not None and after is not None
        assert (before.preempted, after.preempted) == (0, 1)


def test_low_slots_are_told_once(machine: Machine) -> None:
    machine.guests = (Guest(4_182_001, queues=23),)
    told: list[tuple[int, HQDStatus]] = []
    arrived = threading.Event()

    def on_low(gpu_id: int, status: HQDStatus) -> None:
        told.append((gpu_id, status))
        arrived.set()

    with machine.open() as session:
        gpu = session.queues()[0].gpu_id
        with HQDResourceMonitor(session, 0.1, low_water=0.25, on_low=on_low, clean_idle=False):
            session.sleep(2.0)
            assert arrived.wait(30)
        assert [gpu_id for gpu_id, _ in told] == [gpu]
        assert told[0][1].free == 1


def test_an_exception_in_the_callback_is_unraisable_and_the_monitor_goes_on(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine.guests = (Guest(4_182_001, queues=24),)
    seen: list[Any] = []
    arrived = threading.Event()

    def hook(unraisable: Any) -> None:
        seen.append(unraisable.exc_value)
        arrived.set()

    monkeypatch.setattr(sys, "unraisablehook", hook)

    def on_low(gpu_id: int, status: HQDStatus) -> None:
        raise RuntimeError("from the callback")

    with machine.open() as session, HQDResourceMonitor(session, 0.1, on_low=on_low, clean_idle=False) as monitor:
        session.sleep(1.0)
        assert arrived.wait(30)
        assert monitor.running
    assert [str(error) for error in seen] == ["from the callback"]


def test_the_callback_may_stop_its_monitor(machine: Machine) -> None:
    machine.guests = (Guest(4_182_001, queues=24),)
    stopped = threading.Event()
    with machine.open() as session:

        def on_low(gpu_id: int, status: HQDStatus) -> None:
            monitor.stop()
            stopped.set()

        monitor = HQDResourceMonitor(session, 0.1, on_low=on_low, clean_idle=False)
        monitor.start()
        session.sleep(1.0)
        assert stopped.wait(30)


def test_idle_lazy_queues_leave_the_hardware_and_busy_ones_stay(machine: Machine) -> None:
    idle, busy = Guest(4_182_001, queues=3, packet_ms=None), Guest(4_182_002, queues=2)
    machine.guests = (idle, busy)
    with machine.open() as session:
        for queue in session.queues():
            session.set_policy(queue, QueuePolicy(0x7))
        with HQDResourceMonitor(session, 0.1):
            session.sleep(2.0)
            assert not any(session.is_active(queue) for queue in queues_of(session, idle))
            assert all(session.is_active(queue) for queue in queues_of(session, busy))
        assert all(session.is_active(queue) for queue in queues_of(session, idle)), "a stop gives them back"


def test_what_a_caller_unmapped_is_not_mapped_on_new_work(machine: Machine) -> None:
    machine.guests = (Guest(4_182_001, queues=1, packet_ms=None),)
    scenario = machine.file()
    work = "work = { periodic = { period_ms = 5000, packets = 1, packet_us = 1000, occupancy = 0.1 } }"
    scenario.write_text(scenario.read_text().replace("work = 'manual'", work))
    with Session("sim", clock="virtual", scenario=scenario) as session:
        (queue,) = session.queues()
        session.set_policy(queue, QueuePolicy(0x7))
        with HQDResourceMonitor(session, 0.1):
            session.sleep(2.0)
            assert not session.is_active(queue), "it was idle"
            session.unmap([queue])
            session.sleep(5.0)
            assert not session.is_active(queue), "it has work, but its caller wants it away"
            session.remap([queue])
            session.sleep(0.05)
            done = packets_done(session, [queue])
            session.sleep(20.0)
            assert packets_done(session, [queue]) >= done + 3, "now the monitor maps it whenever work comes"


@pytest.mark.parametrize("wrong", [{"interval": 0.0}, {"low_water": -0.1}, {"low_water": 1.5}, {"interval": -1.0}])
def test_wrong_settings_are_told_at_the_start(session: Session, wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidArgumentError):
        HQDResourceMonitor(session, **wrong).start()  # type: ignore[arg-type]


def test_a_forgotten_monitor_ends_without_a_deadlock(machine: Machine) -> None:
    machine.guests = (Guest(4_182_001, queues=24),)
    with machine.open() as session:
        for _ in range(5):
            monitor = HQDResourceMonitor(session, 0.01, on_low=lambda gpu_id, status: None, clean_idle=False)
            monitor.start()
            session.sleep(0.1)
            del monitor
            gc.collect()
        assert session.status().total > 0


EXIT_SCRIPT = """
import gpreempt, threading, time
session = gpreempt.Session("sim", clock="real", scenario="oversubscribed")
said = threading.Event()
def on_low(gpu_id, status):
    said.set()
    time.sleep(0.5)
    print("the callback was waited for", flush=True)
monitor = gpreempt.HQDResourceMonitor(session, 0.001, on_low=on_low)
monitor.start()
scheduler = gpreempt.SmartQueueScheduler(session)
for queue in session.queues()[:5]:
    scheduler.register_offline_queue(queue)
window = scheduler.online()
window.__enter__()
said.wait()
print("leaving", flush=True)
"""


def test_the_interpreter_exits_with_everything_running() -> None:
    run = subprocess.run([sys.executable, "-c", EXIT_SCRIPT], capture_output=True, text=True, timeout=50)
    assert (run.returncode, run.stdout, run.stderr) == (0, "leaving\nthe callback was waited for\n", "")


def test_the_default_session_serves_where_none_is_given() -> None:
    with HQDResourceMonitor() as monitor:
        assert monitor.session is gpreempt.default_session()
