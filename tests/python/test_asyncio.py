"""asyncio helpers: windows, sleeps and statuses that do not block the loop."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Union

import pytest

import gpreempt
from gpreempt import HQDResourceMonitor, Session, SmartQueueScheduler, aio
from machines import TRAINER, queues_of


def test_windows_of_many_tasks_nest(session: Session) -> None:
    async def main() -> None:
        scheduler = SmartQueueScheduler(session, online_percent=None)
        queues = queues_of(session, TRAINER)
        for queue in queues:
            scheduler.register_offline_queue(queue)

        async def request() -> None:
            async with aio.online(scheduler):
                assert not any(session.is_active(queue) for queue in queues)
                await aio.sleep(0.01, session)

        await asyncio.gather(*(request() for _ in range(10)))
        assert all(session.is_active(queue) for queue in queues)

    asyncio.run(main())


def test_a_cancelled_task_gives_back_what_it_took(session: Session) -> None:
    async def main() -> None:
        scheduler = SmartQueueScheduler(session, online_percent=None)
        queues = queues_of(session, TRAINER)
        for queue in queues:
            scheduler.register_offline_queue(queue)

        async def request() -> None:
            async with aio.online(scheduler):
                await asyncio.Event().wait()

        for pause in (0.0, 0.05):
            task = asyncio.ensure_future(request())
            await asyncio.sleep(pause)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert all(session.is_active(queue) for queue in queues)

    asyncio.run(main())


def test_watch_yields_once_per_interval_and_ends_with_the_monitor(session: Session) -> None:
    async def main() -> list[float]:
        times = []
        with HQDResourceMonitor(session, interval=0.25) as monitor:
            async for status in monitor.watch():
                assert status == monitor.current_status
                times.append(session.now())
                if len(times) == 4:
                    monitor.stop()
        return times

    times = asyncio.run(main())
    assert [later - earlier for earlier, later in zip(times, times[1:])] == pytest.approx([0.25] * 3, abs=0.01)


@pytest.mark.parametrize("pause", [2, 2.0, timedelta(seconds=2)])
def test_a_sleep_takes_what_a_session_s_sleep_takes(session: Session, pause: Union[float, timedelta]) -> None:
    before = session.now()
    asyncio.run(aio.sleep(pause, session))
    assert session.now() - before == pytest.approx(2.0, abs=0.01)


def test_a_sleep_names_the_wrong_time_that_it_was_given(session: Session) -> None:
    with pytest.raises(gpreempt.InvalidArgumentError, match="-1 s is not a time"):
        asyncio.run(aio.sleep(-1, session))
    with pytest.raises(TypeError, match="expected seconds or a timedelta, not str"):
        asyncio.run(aio.sleep("1", session))  # type: ignore[arg-type]


def test_a_sleep_can_be_cancelled_on_a_real_clock() -> None:
    async def main() -> None:
        with gpreempt.Session("sim", clock="real", empty=True) as session:
            # The loop would not end before a sleep of an hour did.
            task = asyncio.ensure_future(aio.sleep(3600.0, session))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
