"""The machine's clock, with the names of :mod:`time`.

``from gpreempt import clock as time`` makes a program's pauses pass on the machine that the program controls. On a real
GPU and on a simulated machine with a real clock they are as long as ever; on a virtual clock an hour passes in moments.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Union

from gpreempt.default import default_session

__all__ = ["monotonic", "perf_counter", "sleep", "time"]


def monotonic() -> float:
    """Seconds since the machine of the default session booted."""
    return default_session().now()


def time() -> float:
    """The same clock as :func:`monotonic`: good for differences, not a date."""
    return monotonic()


def perf_counter() -> float:
    """The same clock as :func:`monotonic`."""
    return monotonic()


def sleep(seconds: Union[float, timedelta]) -> None:
    """Lets ``seconds`` (or a timedelta) pass on the machine of the default session; Ctrl-C ends the wait."""
    default_session().sleep(seconds)
