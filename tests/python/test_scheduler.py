"""SmartQueueScheduler: windows nest, come back on every way out, and are counted."""

from __future__ import annotations

import threading

import pytest

import gpreempt
from gpreempt import InvalidArgumentError, QueueNotFoundError, QueuePolicy, Session, SmartQueueScheduler
from machines import SECOND_TRAINER, SERVER, TRAINER, Guest, Machine, queues_of


@pytest.fixture
def scheduler(session: Session) -> SmartQueueScheduler:
    """A scheduler with the first trainer's queues offline."""
    scheduler = SmartQueueScheduler(session, online_percent=None)
    for queue in queues_of(session, TRAINER):
        scheduler.register_offline_queue(queue)
    return scheduler


def active(session: Session) -> list[bool]:
    return [session.is_active(queue) for queue in queues_of(session, TRAINER)]


def test_windows_nest(session: Session, scheduler: SmartQueueScheduler) -> None:
    with scheduler.online() as outer:
        assert outer.unmapped == 4 and outer.rounds == 1 and outer.elapsed_s > 0
        with scheduler.online() as inner:
            assert inner.unmapped == 0
        assert not any(active(session))
    assert all(active(session))
    assert outer.error is None
    assert scheduler.stats["batch_unmap_count"] == 1


def test_an_exception_gives_the_queues_back(session: Session, scheduler: SmartQueueScheduler) -> None:
    def fails() -> None:
        raise KeyError("online work failed")

    with pytest.raises(KeyError, match="online work failed"):
        scheduler.handle_online_request(fails)
    assert all(active(session))


def test_cleanup_in_a_window_gives_everything_back(session: Session, scheduler: SmartQueueScheduler) -> None:
    with scheduler.online():
        assert not any(active(session))
        scheduler.cleanup()
    scheduler.cleanup()
    assert all(active(session))
    assert not scheduler.hqd_monitor.running
    with pytest.raises(gpreempt.BackendUnavailableError):
        scheduler.handle_online_request()
    scheduler.print_statistics()


def test_a_closed_session_takes_its_scheduler_along(session: Session, scheduler: SmartQueueScheduler) -> None:
    session.close()
    with pytest.raises(gpreempt.BackendUnavailableError):
        scheduler.handle_online_request()
    scheduler.cleanup()


def test_an_online_queue_is_never_unmapped(session: Session, scheduler: SmartQueueScheduler) -> None:
    server = queues_of(session, SERVER)[0]
    scheduler.register_online_queue(server)
    with pytest.raises(InvalidArgumentError):
        scheduler.register_offline_queue(server)
    assert scheduler.online_queues == [server.queue_id]
    assert server.queue_id not in scheduler.offline_queues
    with scheduler.online():
        assert session.is_active(server)


def test_registering_twice_is_once_and_unregistering_gives_back(
    session: Session, scheduler: SmartQueueScheduler
) -> None:
    queue = queues_of(session, TRAINER)[0]
    scheduler.register_offline_queue(queue.queue_id)
    assert len(scheduler.offline_queues) == 4
    with scheduler.online():
        scheduler.unregister_queue(queue)
        assert session.is_active(queue)
    assert len(scheduler.offline_queues) == 3
    with pytest.raises(QueueNotFoundError):
        scheduler.unregister_queue(queue)


def test_a_whole_process_is_offline(session: Session, scheduler: SmartQueueScheduler) -> None:
    assert scheduler.register_offline_process(SECOND_TRAINER.pid) == 2
    with scheduler.online() as window:
        assert window.unmapped == 6
    with pytest.raises(gpreempt.ProcessGoneError):
        scheduler.register_offline_process(999_999)


def test_offline_queues_get_the_design_s_policy(session: Session, scheduler: SmartQueueScheduler) -> None:
    for queue in queues_of(session, TRAINER):
        assert session.queue_status(queue).policy == QueuePolicy(0x7)


def test_statistics_are_labelled_and_in_machine_time(
    session: Session, scheduler: SmartQueueScheduler, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(3):
        scheduler.handle_online_request(lambda: session.sleep(0.01))
    stats = scheduler.stats
    assert len(stats["batch_unmap_latencies"]) == stats["batch_unmap_count"] == 3
    assert all(latency > 0 for latency in stats["batch_unmap_latencies"] + stats["fast_remap_latencies"])
    report = scheduler.report()
    assert report["label"] == "modelled (cost model design)"
    assert report["operations"]["unmap"]["calls"] == 3
    assert report["operations"]["online"]["phases"]["total"]["p50_us"] >= 10_000
    session.close()
    scheduler.print_statistics()
    printed = capsys.readouterr().out
    assert "[modelled (cost model design)]" in printed and "Batch unmaps: 3" in printed


def test_times_of_a_real_clock_are_not_called_modelled_alone(machine: Machine) -> None:
    with machine.open(clock="real") as session, SmartQueueScheduler(session, online_percent=None) as scheduler:
        assert session.clock == "real"
        assert scheduler.report()["label"] == "modelled (cost model design), plus this machine's own time"


def test_a_gpu_that_timed_out_is_left_alone_until_its_reset_is_over(machine: Machine) -> None:
    machine.guests = (TRAINER, SECOND_TRAINER)
    machine.head = "preempt_timeout_ms = 1000"
    machine.faults.append("[[fault]]\nat = { round = 1 }\nwhat = { hws-timeout = { node = 0 } }\n")
    with machine.open() as session, SmartQueueScheduler(session, online_percent=None) as scheduler:
        gpu = queues_of(session, TRAINER)[0].gpu_id
        for guest in (TRAINER, SECOND_TRAINER):
            scheduler.register_offline_process(guest.pid)
        with scheduler.online() as window:
            assert isinstance(window.error, gpreempt.PreemptTimeoutError)
            assert str(window.error).endswith(
                f"the preemption timed out (ETIME); GPU {gpu} is left alone until its reset is over, or the scheduler's"
                f" readmit({gpu}) is called"
            )
        assert scheduler.tripped() == [gpu]
        with scheduler.online() as window:
            assert window.error is None and window.unmapped == 2
        session.sleep(60.0)
        assert scheduler.tripped() == []
        assert scheduler.readmit(gpu) == 0
        with scheduler.online() as window:
            # It is tried again; the reset took the queues that it had.
            assert isinstance(window.error, gpreempt.QueueResetError)


def test_threads_share_a_scheduler(session: Session, scheduler: SmartQueueScheduler) -> None:
    failures: list[BaseException] = []

    def requests() -> None:
        try:
            for _ in range(25):
                with scheduler.online():
                    assert not any(active(session))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=requests) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert all(active(session))
    stats = scheduler.stats
    assert 1 <= stats["batch_unmap_count"] == stats["fast_remap_count"] <= 200


@pytest.mark.parametrize("policy", ["unmap", "lazy", "slice", "rate-bound"])
def test_every_policy_gives_everything_back(machine: Machine, policy: str) -> None:
    machine.guests = (TRAINER, SERVER)
    with machine.open() as session:
        with SmartQueueScheduler(session, policy=policy, online_percent=None) as scheduler:
            for queue in queues_of(session, TRAINER):
                scheduler.register_offline_queue(queue)
            for _ in range(5):
                scheduler.handle_online_request(lambda: session.sleep(0.005))
                session.sleep(0.02)
            assert scheduler.take_error() is None
        assert all(active(session))


def test_an_unknown_policy_says_which_there_are(session: Session) -> None:
    with pytest.raises(InvalidArgumentError, match="rate-bound"):
        SmartQueueScheduler(session, policy="best")
    with pytest.raises(InvalidArgumentError):
        SmartQueueScheduler(session, online_percent=50, offline_percent=51)
    assert session.status().online_reserved == 0


def test_the_reservation_ends_with_the_scheduler(session: Session) -> None:
    total = session.status().total
    with SmartQueueScheduler(session) as scheduler:
        status = scheduler.hqd_monitor.current_status
        assert status is not None
        assert (status.online_reserved, status.offline_max) == (
            status.nodes * (total // status.nodes // 10),
            status.nodes * (total // status.nodes * 80 // 100),
        )
    assert session.status().online_reserved == 0
    assert session.status().offline_max == total


def test_a_process_that_dies_in_a_window_spoils_nothing(machine: Machine) -> None:
    machine.guests = (TRAINER, Guest(4_182_005, queues=2), SERVER)
    machine.gone_at(4_182_005, 5.0)
    with machine.open() as session, SmartQueueScheduler(session, online_percent=None) as scheduler:
        for pid in (TRAINER.pid, 4_182_005):
            for queue in [queue for queue in session.queues() if queue.pid == pid]:
                scheduler.register_offline_queue(queue)
        with scheduler.online() as window:
            assert window.unmapped == 6
            session.sleep(6.0)
        assert all(active(session))
        assert scheduler.handle_online_request(lambda: 7) == 7


def test_cleanup_leaves_no_trace(machine: Machine) -> None:
    # Idle queues are unmapped as soon as they are LAZY; whoever made them so gives them back.
    machine.guests = (Guest(4_182_003, queues=3, nodes=(1,), packet_ms=None), TRAINER)
    with machine.open() as session:
        before = session.status()
        queues = session.queues()
        scheduler = SmartQueueScheduler(session)
        for queue in queues:
            scheduler.register_offline_queue(queue)
        scheduler.unregister_queue(queues[0])
        assert session.is_active(queues[0]) and session.queue_status(queues[0]).policy == 0
        session.sleep(2.5)
        scheduler.cleanup()
        assert session.status() == before
        assert [session.queue_status(queue).policy for queue in queues] == [0] * len(queues)
        assert scheduler.offline_queues == []


def test_work_in_a_window_waits_although_the_monitor_sees_it(machine: Machine) -> None:
    machine.guests = (Guest(4_182_001, queues=1, packet_ms=None),)
    scenario = machine.file()
    work = "work = { periodic = { period_ms = 5000, packets = 1, packet_us = 1000, occupancy = 0.1 } }"
    scenario.write_text(scenario.read_text().replace("work = 'manual'", work))
    with Session("sim", clock="virtual", scenario=scenario) as session, SmartQueueScheduler(session) as scheduler:
        (queue,) = session.queues()
        scheduler.register_offline_queue(queue)
        session.sleep(3.0)
        assert not session.is_active(queue), "the monitor took it, for it was idle"
        with scheduler.online():
            before = session.queue_status(queue)
            session.sleep(5.0)
            during = session.queue_status(queue)
            assert (before.read_ptr, during.read_ptr) == (1, 1) and during.write_ptr == 2
            assert not session.is_active(queue)
        session.sleep(3.0)
        after = session.queue_status(queue).read_ptr
        assert after is not None and after >= 2, "the monitor maps it once the window is over"
