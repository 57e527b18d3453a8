"""Queue-level preemption of offline training by online inference on AMD Instinct GPUs.

    >>> import gpreempt
    >>> with gpreempt.Session("sim", clock="virtual") as session:
    ...     offline = [q for q in session.queues() if q.priority is not None and q.priority <= 5]
    ...     for queue in offline:
    ...         _ = session.set_policy(queue, gpreempt.QueuePolicy.PREEMPTIBLE)
    ...     batch = session.unmap(offline)      # one HWS round per GPU, however many queues
    ...     batch = session.remap(offline)

:class:`Session` is one opened machine, :class:`SmartQueueScheduler` keeps offline queues away while online work is in
flight, :class:`HQDResourceMonitor` watches the hardware queue slots. Times are seconds unless a name says otherwise, and
every time argument takes a :class:`datetime.timedelta`, too. All errors are :class:`gpreempt.errors.GpreemptError`, which
is an :class:`OSError`. Log records go to the logger ``gpreempt``.
"""

from __future__ import annotations

# First: the native module raises these.
from gpreempt import errors as errors
from gpreempt._gpreempt import (
    Batch,
    HQDStatus,
    QueueInfo,
    QueueStatus,
    Reservation,
    Session,
    __version__,
    refresh_logging,
)
from gpreempt.default import default_session
from gpreempt.errors import (
    BackendUnavailableError,
    BusyError,
    GpreemptError,
    InternalError,
    InvalidArgumentError,
    PermissionDenied,
    PreemptTimeoutError,
    ProcessGoneError,
    QueueNotFoundError,
    QueueResetError,
    ResettingError,
    StaleError,
    UnsupportedError,
)
from gpreempt.flags import QueuePolicy, QueueState, UnmapFlag
from gpreempt.monitor import HQDResourceMonitor
from gpreempt.paths import include_path, library_path
from gpreempt.scan import scan_queues_by_priority
from gpreempt.scheduler import SmartQueueScheduler

__all__ = [
    "BackendUnavailableError",
    "Batch",
    "BusyError",
    "GpreemptError",
    "HQDResourceMonitor",
    "HQDStatus",
    "InternalError",
    "InvalidArgumentError",
    "PermissionDenied",
    "PreemptTimeoutError",
    "ProcessGoneError",
    "QueueInfo",
    "QueueNotFoundError",
    "QueuePolicy",
    "QueueResetError",
    "QueueState",
    "QueueStatus",
    "Reservation",
    "ResettingError",
    "Session",
    "SmartQueueScheduler",
    "StaleError",
    "UnmapFlag",
    "UnsupportedError",
    "__version__",
    "default_session",
    "errors",
    "include_path",
    "library_path",
    "refresh_logging",
    "scan_queues_by_priority",
]
