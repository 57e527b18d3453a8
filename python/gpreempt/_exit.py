"""Threads that call Python must end before the interpreter does."""

from __future__ import annotations

import atexit
import weakref
from typing import Protocol

__all__ = ["stop_at_exit"]


class _Stoppable(Protocol):
    def stop(self) -> None: ...


_running: weakref.WeakSet[_Stoppable] = weakref.WeakSet()


def stop_at_exit(thing: _Stoppable) -> None:
    """Stops ``thing`` when the interpreter exits, if it is still there then."""
    _running.add(thing)


@atexit.register
def _stop_all() -> None:
    for thing in list(_running):
        thing.stop()
