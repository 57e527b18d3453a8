"""asyncio helpers: nothing here blocks the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Optional, Union

from gpreempt._gpreempt import HQDStatus, Online, Session
from gpreempt.default import default_session

if TYPE_CHECKING:
    from gpreempt.monitor import HQDResourceMonitor
    from gpreempt.scheduler import SmartQueueScheduler

__all__ = ["online", "sleep", "watch"]


async def sleep(seconds: Union[float, timedelta], session: Optional[Session] = None) -> None:
    """Lets ``seconds`` (or a timedelta) pass on a machine's clock (None = the default session's); can be cancelled."""
    session = session or default_session()
    deadline = session._deadline(seconds)
    # In small steps, for a thread that waits cannot be cancelled.
    while not await asyncio.to_thread(session._sleep_towards, deadline):
        pass


@asynccontextmanager
async def online(scheduler: SmartQueueScheduler) -> AsyncIterator[Online]:
    """``async with online(scheduler):`` keeps the offline queues away as :meth:`SmartQueueScheduler.online` does."""
    entering = asyncio.ensure_future(asyncio.to_thread(scheduler._enter))
    try:
        request = await asyncio.shield(entering)
    except asyncio.CancelledError:
        # The thread enters all the same, so wait for it and give back what it took.
        await asyncio.to_thread(scheduler._leave, await entering)
        raise
    try:
        yield request
    finally:
        await asyncio.shield(asyncio.to_thread(scheduler._leave, request))


async def watch(monitor: HQDResourceMonitor) -> AsyncIterator[HQDStatus]:
    """The status once per interval of a running monitor, at once to begin with; ends when it stops."""
    while monitor.running:
        status = monitor.current_status
        if status is not None:
            yield status
        await sleep(monitor.interval, monitor.session)
