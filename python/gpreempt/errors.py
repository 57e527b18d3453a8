"""What can go wrong: one class per errno, the same numbers as in C and Rust.

Every error is a :class:`GpreemptError` and so an :class:`OSError` with ``errno`` and ``strerror``; the text says what
was tried, on which queue, and what to do about it.

=================  =====================================================  ==========================
errno              class                                                  also a
=================  =====================================================  ==========================
EINVAL             :class:`InvalidArgumentError`                          :class:`ValueError`
ENOENT             :class:`QueueNotFoundError` (or no such GPU)           :class:`LookupError`
ESRCH              :class:`ProcessGoneError`                              :class:`ProcessLookupError`
EPERM              :class:`PermissionDenied` (or not PREEMPTIBLE)         :class:`PermissionError`
EBUSY              :class:`BusyError`, held by another lease
ETIME              :class:`PreemptTimeoutError`                           :class:`TimeoutError`
EIO                :class:`ResettingError`, the node is being reset
EACCES             :class:`QueueResetError`, that queue was reset
EOPNOTSUPP         :class:`UnsupportedError` by this tier or firmware
ENODEV             :class:`BackendUnavailableError`, or the session is closed
EBADF              :class:`StaleError`, used in a forked child, or the lease died
ENOTRECOVERABLE    :class:`InternalError`, a panic was caught
=================  =====================================================  ==========================
"""

from __future__ import annotations

import errno as _errno
from typing import Any

__all__ = [
    "BackendUnavailableError",
    "BusyError",
    "GpreemptError",
    "InternalError",
    "InvalidArgumentError",
    "PermissionDenied",
    "PreemptTimeoutError",
    "ProcessGoneError",
    "QueueNotFoundError",
    "QueueResetError",
    "ResettingError",
    "StaleError",
    "UnsupportedError",
]


class GpreemptError(OSError):
    """Base of all errors; made with an errno it becomes the class of that errno, as :class:`OSError` itself does."""

    def __new__(cls, *args: Any) -> GpreemptError:
        if cls is GpreemptError and args:
            cls = _BY_ERRNO.get(args[0], cls)
        return super().__new__(cls, *args)


class InvalidArgumentError(GpreemptError, ValueError):
    """EINVAL: an argument is wrong; or a file is, and then the text gives its path and line."""


class QueueNotFoundError(GpreemptError, LookupError):
    """ENOENT: no such queue or GPU."""


class ProcessGoneError(GpreemptError, ProcessLookupError):
    """ESRCH: the target process is gone."""


class PermissionDenied(GpreemptError, PermissionError):
    """EPERM: not allowed, or the queue is not PREEMPTIBLE."""


class BusyError(GpreemptError):
    """EBUSY: another lease holds it."""


class PreemptTimeoutError(GpreemptError, TimeoutError):
    """ETIME: the waves did not leave in time; the node is being reset."""


class ResettingError(GpreemptError):
    """EIO: the node is being reset."""


class QueueResetError(GpreemptError):
    """EACCES: that queue was reset and will not run again."""


class UnsupportedError(GpreemptError):
    """EOPNOTSUPP: this tier or firmware cannot do it."""


class BackendUnavailableError(GpreemptError):
    """ENODEV: no machine, none that this process can use, or the session is closed."""


class StaleError(GpreemptError):
    """EBADF: it belongs to the parent of this forked process, or its lease is dead."""


class InternalError(GpreemptError):
    """ENOTRECOVERABLE: a panic inside the library was caught; please report it."""


_BY_ERRNO: dict[int, type[GpreemptError]] = {
    _errno.EINVAL: InvalidArgumentError,
    _errno.ENOENT: QueueNotFoundError,
    _errno.ESRCH: ProcessGoneError,
    _errno.EPERM: PermissionDenied,
    _errno.EBUSY: BusyError,
    _errno.ETIME: PreemptTimeoutError,
    _errno.EIO: ResettingError,
    _errno.EACCES: QueueResetError,
    _errno.EOPNOTSUPP: UnsupportedError,
    _errno.ENODEV: BackendUnavailableError,
    _errno.EBADF: StaleError,
    _errno.ENOTRECOVERABLE: InternalError,
}
