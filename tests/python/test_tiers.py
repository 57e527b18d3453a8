"""The usual work on a stock kernel: what is different is what docs/tiers.md says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import gpreempt
from gpreempt import QueuePolicy, Session, SmartQueueScheduler, UnsupportedError
from machines import SERVER, TRAINER, Machine, queues_of


@pytest.fixture
def stock(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    """The usual machine with a stock kernel."""
    monkeypatch.setenv("GPREEMPT_SIM_TIER", "debugger")
    with machine.open() as session:
        yield session


def test_a_session_names_its_tiers(session: Session, stock: Session) -> None:
    assert session.tiers() == ["patched"]
    assert stock.tiers() == ["debugger"]
    assert stock.tier_of(queues_of(stock, TRAINER)[0]) == "debugger"


def test_the_scheduler_takes_queues_off_and_gives_them_back(stock: Session) -> None:
    scheduler = SmartQueueScheduler(session=stock)
    queues = queues_of(stock, TRAINER)
    for queue in queues:
        scheduler.register_offline_queue(queue.queue_id)
    with scheduler.online():
        assert not any(stock.is_active(queue) for queue in queues)
        assert stock.status().preempted == len(queues)
    assert all(stock.is_active(queue) for queue in queues)
    scheduler.cleanup()


def test_closing_a_session_in_an_online_window_leaves_nothing_stopped(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPREEMPT_SIM_TIER", "debugger")
    session = machine.open()
    queue = queues_of(session, TRAINER)[0]
    session.set_policy(queue, QueuePolicy.PREEMPTIBLE)
    session.unmap([queue])
    session.close()
    with machine.open() as later:
        assert later.is_active(queues_of(later, TRAINER)[0])


def test_slots_are_watched_and_idle_queues_are_not_cleaned(stock: Session) -> None:
    monitor = gpreempt.HQDResourceMonitor(session=stock)
    monitor.start()
    status = monitor.current_status
    assert status is not None and status.total == 8 * 24 and status.active > 0
    monitor.stop()
    with pytest.raises(UnsupportedError, match="POINTERS and WAVES"):
        gpreempt.HQDResourceMonitor(session=stock, clean_idle=True).start()


def test_what_a_debugger_does_not_see_is_none(stock: Session) -> None:
    server = queues_of(stock, SERVER)[0]
    assert (server.priority, server.active) == (None, None), "nobody attached it to look"
    status = stock.queue_status(server)
    assert (status.priority, status.read_ptr, status.waves) == (None, None, None)
    assert queues_of(stock, SERVER)[0].active is True, "asking attached it"
