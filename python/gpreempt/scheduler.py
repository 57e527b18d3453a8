"""The scheduler that keeps offline queues away while online work is in flight."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from statistics import fmean
from types import TracebackType
from typing import Any, Callable, Optional, TypedDict, TypeVar, Union, cast, overload

from gpreempt import _exit
from gpreempt._gpreempt import Online, QueueInfo, Scheduler, Session
from gpreempt.default import default_session
from gpreempt.errors import (
    BusyError,
    GpreemptError,
    PermissionDenied,
    ProcessGoneError,
    QueueNotFoundError,
    UnsupportedError,
)
from gpreempt.flags import QueuePolicy
from gpreempt.monitor import HQDResourceMonitor

__all__ = ["Count", "Latency", "OperationReport", "Report", "SchedulerStats", "SmartQueueScheduler"]

_log = logging.getLogger("gpreempt.scheduler")
_T = TypeVar("_T")
# Of one call.
_MOST_QUEUES = 1024


class SchedulerStats(TypedDict):
    """What a scheduler counted; latencies in milliseconds of the machine's clock."""

    batch_unmap_count: int
    fast_remap_count: int
    batch_unmap_latencies: list[float]
    fast_remap_latencies: list[float]


class Latency(TypedDict):
    """A distribution of times, microseconds of the machine's clock."""

    count: int
    mean_us: float
    min_us: float
    p50_us: float
    p90_us: float
    p99_us: float
    p999_us: float
    max_us: float


class Count(TypedDict):
    """A distribution of counts per call."""

    total: int
    mean: float
    p50: int
    max: int


class OperationReport(TypedDict):
    """What is known of one operation: its calls, and their times by phase."""

    calls: int
    failed: int
    phases: dict[str, Latency]
    rounds: Count
    nodes: Count
    queues: Count


class Report(TypedDict):
    """Statistics of a scheduler; ``label`` says whether its times are measured, or modelled and with what."""

    label: str
    operations: dict[str, OperationReport]


class SmartQueueScheduler:
    """Unmaps offline queues in one batch when online work arrives, and maps them when the last of it is done.

    Args:
        session: whose machine; None = the default session.
        policy: ``unmap``, ``reserve``, ``lazy``, ``slice`` or ``rate-bound``, with parameters after a colon, for example
            ``rate-bound:residency=5ms,floor=10%``.
        grace: seconds that waves may finish by themselves before their state is saved.
        online_percent: share of the slots that is kept for online queues; None leaves the reservation alone.
        offline_percent: cap on the slots that offline queues take.

    Use it as a context manager, or call :meth:`cleanup`: either gives back everything. All methods may be called from
    any thread, and online requests nest.

    Raises:
        InvalidArgumentError: the policy, or a percentage, is wrong.
        GpreemptError: what the machine answers. A reservation that it cannot make is a warning in the log, not an error.
    """

    def __init__(
        self,
        session: Optional[Session] = None,
        *,
        policy: str = "unmap",
        grace: Union[float, timedelta] = 100e-6,
        online_percent: Optional[int] = 10,
        offline_percent: int = 80,
    ) -> None:
        self._session = session or default_session()
        self._online_queues: list[int] = []
        self._offline_queues: list[int] = []
        self._reserved = False
        # Taken now: statistics are printed after the session is closed, too.
        self._label = _label(self._session)
        self._scheduler = Scheduler(self._session, policy, grace)
        self.hqd_monitor = HQDResourceMonitor(self._session)
        """Watches the slots once per second for as long as the scheduler lives."""
        try:
            if online_percent is not None:
                self._reserve(online_percent, offline_percent)
            self.hqd_monitor.start()
        except BaseException:
            self.cleanup()
            raise
        _exit.stop_at_exit(self)

    def _reserve(self, online_percent: int, offline_percent: int) -> None:
        try:
            reservation = self._session.set_reservation(0, online_percent, offline_percent)
        except (BusyError, PermissionDenied, UnsupportedError) as error:
            _log.warning("no slots are reserved: %s", error)
            return
        self._reserved = True
        _log.info(
            "reserved %d slots per GPU for online queues, offline queues take at most %d",
            reservation.online_reserved,
            reservation.offline_max,
        )

    @property
    def session(self) -> Session:
        """The session it works on."""
        return self._session

    @property
    def online_queues(self) -> list[int]:
        """The queues that were registered as online, by number."""
        return list(self._online_queues)

    @property
    def offline_queues(self) -> list[int]:
        """The queues that were registered as offline, by number."""
        return list(self._offline_queues)

    def register_offline_queue(self, queue: Union[int, QueueInfo]) -> None:
        """Puts a queue into the offline class: it may be unmapped for online work, and, where the tier can tell, while it idles.

        Raises:
            QueueNotFoundError, ProcessGoneError, PermissionDenied, BusyError: as the machine answers.
            InvalidArgumentError: it is registered as online.
        """
        number = _number(queue)
        self._scheduler.register_offline(number)
        wanted = QueuePolicy.LAZY_ACTIVATION | QueuePolicy.AUTO_DEACTIVATION | QueuePolicy.PREEMPTIBLE
        try:
            try:
                self._session.set_policy(number, wanted)
            except UnsupportedError as error:
                _log.info("queue %d stays mapped while it idles: %s", number, error)
                self._session.set_policy(number, QueuePolicy.PREEMPTIBLE)
        except GpreemptError:
            self._scheduler.unregister(number)
            raise
        if number not in self._offline_queues:
            self._offline_queues.append(number)
        _log.info("queue %d is offline: it may be preempted", number)

    def register_offline_process(self, pid: int) -> int:
        """Puts all queues of a process, present and future, into the offline class; returns how many it has now.

        Raises:
            ProcessGoneError, PermissionDenied, BusyError: as the machine answers.
        """
        return self._scheduler.register_offline_process(pid)

    def register_online_queue(self, queue: Union[int, QueueInfo]) -> None:
        """Declares a queue online: it is never unmapped by this scheduler.

        Raises:
            InvalidArgumentError: it is registered as offline.
            QueueNotFoundError: there is no such queue.
        """
        number = _number(queue)
        self._scheduler.register_online(number)
        if number not in self._online_queues:
            self._online_queues.append(number)

    def unregister_queue(self, queue: Union[int, QueueInfo]) -> None:
        """Forgets a queue; an offline one is given back, and idles on the hardware from now on.

        Raises:
            QueueNotFoundError: it is not registered.
        """
        number = _number(queue)
        self._scheduler.unregister(number)
        if number in self._online_queues:
            self._online_queues.remove(number)
        if number in self._offline_queues:
            self._offline_queues.remove(number)
            self._give_back([number])

    def _give_back(self, queues: list[int]) -> None:
        """Ends the policy of offline queues and maps those that it had unmapped."""
        try:
            for queue in queues:
                with suppress(ProcessGoneError, QueueNotFoundError):
                    self._session.set_policy(queue, 0)
            for first in range(0, len(queues), _MOST_QUEUES):
                self._session.remap(queues[first : first + _MOST_QUEUES])
        except GpreemptError as error:
            _log.warning("not all offline queues are given back: %s", error)

    @overload
    def handle_online_request(self, work: None = None) -> None: ...
    @overload
    def handle_online_request(self, work: Callable[[], _T]) -> _T: ...
    def handle_online_request(self, work: Optional[Callable[[], _T]] = None) -> Optional[_T]:
        """Runs ``work()`` with the offline queues away and returns its result; they come back whatever it raises.

        What the driver could not do (a queue that is being reset, say) is logged; the online work runs all the same.
        """
        with self.online():
            return None if work is None else work()

    @contextmanager
    def online(self) -> Iterator[Online]:
        """``with scheduler.online():`` keeps the offline queues away; they come back when the last such block ends.

        The value has ``unmapped``, ``rounds``, ``elapsed_s`` and ``error`` of entering.
        """
        request = self._enter()
        try:
            yield request
        finally:
            self._leave(request)

    def _enter(self) -> Online:
        request = self._scheduler.enter()
        if request.error is not None:
            _log.warning("online work begins although: %s", request.error)
        return request

    def _leave(self, request: Online) -> None:
        error = request.leave()
        if error is not None:
            _log.warning("online work ended, but: %s", error)

    @property
    def stats(self) -> SchedulerStats:
        """Counts and latencies so far, a new dict each time."""
        unmaps, remaps = self._scheduler.latencies_ms()
        return {
            "batch_unmap_count": len(unmaps),
            "fast_remap_count": len(remaps),
            "batch_unmap_latencies": unmaps,
            "fast_remap_latencies": remaps,
        }

    def report(self) -> Report:
        """Distributions per operation (``unmap``, ``remap``, ``swap``, ``online``) and phase.

        Raises:
            BackendUnavailableError: after :meth:`cleanup`.
        """
        report = cast("dict[str, Any]", json.loads(self._scheduler.report()))
        return {"label": self._label, "operations": report["operations"]}

    def take_error(self) -> Optional[GpreemptError]:
        """The first thing that the driver could not do since the last call of this, on any thread.

        Raises:
            BackendUnavailableError: after :meth:`cleanup`.
        """
        return cast("Optional[GpreemptError]", self._scheduler.take_error())

    def tripped(self) -> list[int]:
        """GPUs, by ``gpu_id``, that this scheduler leaves alone after a timeout or a reset.

        Each is touched again a second after its reset, or at :meth:`readmit`.

        Raises:
            BackendUnavailableError: after :meth:`cleanup`.
        """
        return self._scheduler.tripped()

    def readmit(self, gpu_id: int) -> int:
        """Says that the reset of a GPU is over, and brings its queues where they belong; returns how many moved.

        A GPU that is not left alone stays as it is.

        Raises:
            PreemptTimeoutError, ResettingError: it is not over; the GPU is left alone again.
            QueueResetError: it took queues, which their owners have to make anew; the GPU is readmitted.
            BackendUnavailableError: after :meth:`cleanup`.
        """
        return self._scheduler.readmit(gpu_id)

    def print_statistics(self) -> None:
        """Prints counts, latencies and slots."""
        print(f"Preemption statistics [{self._label}]")
        stats = self.stats
        _print_latencies("Batch unmaps", stats["batch_unmap_count"], stats["batch_unmap_latencies"])
        _print_latencies("Fast remaps", stats["fast_remap_count"], stats["fast_remap_latencies"])
        status = self.hqd_monitor.current_status
        if status is not None:
            print("Queue slots (HQDs):")
            print(f"  Total:           {status.total}")
            print(f"  Active:          {status.active}")
            print(f"  Free:            {status.free}")
            print(f"  Online reserved: {status.online_reserved}")
            print(f"  Offline used:    {status.offline_used} of at most {status.offline_max}")

    def cleanup(self) -> None:
        """Gives back every queue and the reservation, and stops the monitor. Cleaning up twice does nothing."""
        self.hqd_monitor.stop()
        self._scheduler.close()
        if self._session.closed:
            return
        offline, self._offline_queues = self._offline_queues, []
        self._give_back(offline)
        if self._reserved:
            self._reserved = False
            self._session.set_reservation(0, 0, 0)

    stop = cleanup

    def __enter__(self) -> SmartQueueScheduler:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.cleanup()


def _number(queue: Union[int, QueueInfo]) -> int:
    return queue.queue_id if isinstance(queue, QueueInfo) else queue


def _label(session: Session) -> str:
    if session.cost_model is None:
        return "measured"
    modelled = f"modelled (cost model {session.cost_model})"
    return modelled if session.clock == "virtual" else f"{modelled}, plus this machine's own time"


def _print_latencies(name: str, count: int, latencies_ms: list[float]) -> None:
    print(f"{name}: {count}")
    if latencies_ms:
        print(f"  mean {fmean(latencies_ms):.3f} ms, max {max(latencies_ms):.3f} ms")
