"""The test plan of the first generation: suspend and resume, which are unmap and remap today.

Everything here runs on the simulated machine's virtual clock, so five minutes or an hour pass in moments. What is asserted
of times follows from the cost model that the test names; nothing here is a measurement.
"""

from __future__ import annotations

import statistics
import threading

import pytest

import gpreempt
from gpreempt import BackendUnavailableError, InvalidArgumentError, QueueNotFoundError, Session, SmartQueueScheduler
from machines import TRAINER, Guest, Machine, make_offline, packets_done, queues_of


def offline_loss(machine: Machine, guests: tuple[Guest, ...], seconds: float, period: float, window: float) -> float:
    """Share of the offline packets that online windows of ``window`` seconds every ``period`` seconds cost."""
    machine.guests = guests
    with machine.open() as session:
        queues = make_offline(session, *guests)
        start = packets_done(session, queues)
        session.sleep(seconds)
        baseline = packets_done(session, queues) - start
    with machine.open() as session:
        queues = make_offline(session, *guests)
        start, end = packets_done(session, queues), session.now() + seconds
        with SmartQueueScheduler(session, online_percent=None) as scheduler:
            for queue in queues:
                scheduler.register_offline_queue(queue)
            following = session.now()
            while session.now() < end:
                scheduler.handle_online_request(lambda: session.sleep(window))
                following += period
                session.sleep(max(0.0, following - session.now()))
            stats = scheduler.stats
            assert stats["batch_unmap_count"] == stats["fast_remap_count"], "every suspend must have its resume"
        mixed = packets_done(session, queues) - start
    assert baseline > 0
    return (baseline - mixed) / baseline


def test_api_availability(session: Session) -> None:
    for name in gpreempt.__all__:
        assert getattr(gpreempt, name) is not None
    for name in ("register_offline_queue", "handle_online_request", "print_statistics", "cleanup"):
        assert callable(getattr(SmartQueueScheduler, name))
    assert "simulated" in session.describe()
    assert session.cost_model == "design"


def test_basic_preemption(session: Session) -> None:
    queues = make_offline(session, TRAINER)
    assert all(session.is_active(queue) for queue in queues)
    session.unmap(queues)
    assert not any(session.is_active(queue) for queue in queues)
    stopped = packets_done(session, queues)
    session.sleep(0.1)
    assert packets_done(session, queues) == stopped, "a queue off the hardware does no work"
    session.remap(queues)
    assert all(session.is_active(queue) for queue in queues)
    session.sleep(0.1)
    assert packets_done(session, queues) > stopped, "its work goes on where it stopped"


def test_frequent_preemption(machine: Machine) -> None:
    # 2 ms of every 100 ms for five minutes. Under cost model `design` a window costs well below 18 ms more.
    guests = (Guest(4_182_001, queues=4, packet_ms=20.0),)
    loss = offline_loss(machine, guests, seconds=300, period=0.1, window=0.002)
    assert 0 < loss < 0.20


def test_edge_cases(session: Session) -> None:
    queue = make_offline(session, TRAINER)[0]
    with pytest.raises(QueueNotFoundError):
        session.unmap([queue.queue_id + 1000])
    with pytest.raises(InvalidArgumentError):
        session.unmap([])
    with pytest.raises(InvalidArgumentError):
        session.unmap([queue, queue])
    for _ in range(2):
        session.unmap([queue])
        assert not session.is_active(queue)
    for _ in range(2):
        session.remap([queue])
        assert session.is_active(queue)

    def suspend_and_resume() -> None:
        for _ in range(50):
            session.unmap([queue])
            session.remap([queue])

    threads = [threading.Thread(target=suspend_and_resume) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert session.is_active(queue)
    session.close()
    with pytest.raises(BackendUnavailableError):
        session.unmap([queue])


def test_latency(session: Session) -> None:
    queues = make_offline(session, TRAINER)
    times = []
    for _ in range(100):
        before = session.now()
        batch = session.unmap(queues)
        assert batch.rounds == 1
        assert session.now() - before >= batch.elapsed_s * 0.999 > 0
        times.append(batch.elapsed_s)
        session.remap(queues)
        session.sleep(0.01)
    # One round of the same four queues each time; only the waves that are live differ.
    assert statistics.stdev(times) < statistics.mean(times)


def test_throughput(machine: Machine) -> None:
    # Five minutes with 10 ms of every second taken: at least that share is lost, and under `design` not five times it.
    guests = (Guest(4_182_001, queues=2, packet_ms=20.0),)
    loss = offline_loss(machine, guests, seconds=300, period=1.0, window=0.01)
    assert 0.005 < loss < 0.05


def test_stability(machine: Machine) -> None:
    # An hour, a request every two seconds.
    guests = (Guest(4_182_001, queues=2, packet_ms=100.0),)
    loss = offline_loss(machine, guests, seconds=3600, period=2.0, window=0.05)
    assert 0 < loss < 0.10


def test_stress(machine: Machine) -> None:
    # Ten offline queues, a request every 10 ms for ten minutes: none is lost, none stops for good.
    machine.guests = (Guest(4_182_001, queues=10, packet_ms=20.0),)
    with machine.open() as session, SmartQueueScheduler(session, online_percent=None) as scheduler:
        queues = queues_of(session, machine.guests[0])
        for queue in queues:
            scheduler.register_offline_queue(queue)
        end = session.now() + 600
        while session.now() < end:
            scheduler.handle_online_request(lambda: session.sleep(0.001))
            session.sleep(0.009)
        stats = scheduler.stats
        assert stats["batch_unmap_count"] == stats["fast_remap_count"] > 10_000
        assert scheduler.take_error() is None
        before = [session.queue_status(queue).read_ptr for queue in queues]
        session.sleep(1)
        after = [session.queue_status(queue).read_ptr for queue in queues]
        assert all(b is not None and a is not None and a > b for b, a in zip(before, after))
