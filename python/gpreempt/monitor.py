"""Watching the hardware queue slots."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from types import TracebackType
from typing import Callable, Optional, Union

from gpreempt import _exit, aio
from gpreempt._gpreempt import HQDStatus, Monitor, Session
from gpreempt.default import default_session
from gpreempt.errors import UnsupportedError

__all__ = ["HQDResourceMonitor"]

_log = logging.getLogger("gpreempt.monitor")


class HQDResourceMonitor:
    """Looks at the slots of every GPU once per interval, on a thread of its own.

    Args:
        session: whose machine; None = the default session.
        interval: seconds between two looks, on the machine's clock.
        low_water: a GPU is low when its free slots fall below this fraction of its slots.
        on_low: called as ``on_low(gpu_id, status)`` on the monitor's thread each time a GPU becomes low. It is armed
            again once twice that fraction is free. An exception in it goes to :func:`sys.unraisablehook`.
        clean_idle: unmap idle offline queues of a GPU that is low, and LAZY_ACTIVATION queues whenever they idle, and
            map them again when they get work. None: where a tier of the machine sees which queue is idle.

    A monitor starts with :meth:`start` or as a context manager, and can be started again after it stopped.
    """

    def __init__(
        self,
        session: Optional[Session] = None,
        interval: Union[float, timedelta] = 1.0,
        low_water: float = 0.1,
        on_low: Optional[Callable[[int, HQDStatus], object]] = None,
        clean_idle: Optional[bool] = None,
    ) -> None:
        self._session = session
        self._interval = interval
        self._low_water = low_water
        self._on_low = on_low
        self._clean_idle = clean_idle
        self._monitor: Optional[Monitor] = None
        self._last: Optional[HQDStatus] = None

    @property
    def session(self) -> Session:
        """The session it watches."""
        if self._session is None:
            self._session = default_session()
        return self._session

    @property
    def interval(self) -> float:
        """Seconds between two looks."""
        return self._interval.total_seconds() if isinstance(self._interval, timedelta) else self._interval

    @property
    def current_status(self) -> Optional[HQDStatus]:
        """All GPUs together at the last look: None before the first start, and the last one known after a stop."""
        monitor = self._monitor
        if monitor is not None and monitor.running:
            self._last = monitor.status()
        return self._last

    @property
    def running(self) -> bool:
        """Whether it watches. Setting it to False stops the monitor, setting it to True starts it."""
        return self._monitor is not None and self._monitor.running

    @running.setter
    def running(self, on: bool) -> None:
        if on:
            self.start()
        else:
            self.stop()

    def start(self) -> None:
        """Takes the first status, then watches. Starting a running monitor does nothing.

        Raises:
            InvalidArgumentError: the interval is not above 0, or ``low_water`` is not between 0 and 1.
            UnsupportedError: ``clean_idle`` was asked for, and no tier of the machine sees which queue is idle.
            GpreemptError: what the machine answers where no GPU does.
        """
        if self.running:
            return
        try:
            self._monitor = self._watching(self._clean_idle is not False)
        except UnsupportedError as error:
            if self._clean_idle:
                raise
            _log.info("idle queues stay mapped: %s", error)
            self._monitor = self._watching(False)
        self._last = self._monitor.status()
        _exit.stop_at_exit(self)

    def _watching(self, clean_idle: bool) -> Monitor:
        high_water = min(1.0, 2 * self._low_water)
        return Monitor(self.session, self._interval, self._low_water, high_water, clean_idle, self._on_low)

    def stop(self) -> None:
        """Maps what the monitor had unmapped, and stops watching. Stopping twice does nothing."""
        if self._monitor is not None:
            self._last = self.current_status
            self._monitor.stop()

    def __enter__(self) -> HQDResourceMonitor:
        self.start()
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.stop()

    def watch(self) -> AsyncIterator[HQDStatus]:
        """The status once per interval, for ``async for``; ends when the monitor stops."""
        return aio.watch(self)
