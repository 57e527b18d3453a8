from _typeshed import SupportsGetItem
from collections.abc import Iterable
from datetime import timedelta
from gpreempt.flags import QueuePolicy
from os import PathLike
from typing import Any, Final, SupportsFloat, SupportsIndex, final

__all__ = ["__version__", "Batch", "HQDStatus", "Monitor", "Online", "QueueInfo", "QueueStatus", "Reservation", "Scheduler", "Session", "_abandon_after_fork", "refresh_logging", "run_command"]

__version__: Final[str]
"""
The version of the package.
"""

@final
class Batch:
    """
    What one batch did, and what it cost as the driver reports it.
    """
    __match_args__: Final[tuple[str, str, str, str, str]]
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, queues: SupportsIndex, nodes: SupportsIndex, rounds: SupportsIndex, elapsed_s: SupportsFloat | SupportsIndex, slowest_node_s: SupportsFloat | SupportsIndex) -> Batch: ...
    def __reduce__(self, /) -> tuple[type, tuple[int, int, int, float, float]]: ...
    def __repr__(self, /) -> str: ...
    @property
    def elapsed_s(self, /) -> float:
        """
        The whole call, seconds of the machine's clock.
        """
    @property
    def nodes(self, /) -> int:
        """
        Nodes with at least one of them.
        """
    @property
    def queues(self, /) -> int:
        """
        Queues now in the wanted state.
        """
    @property
    def rounds(self, /) -> int:
        """
        Nodes whose runlist was executed: one HWS round each.
        """
    @property
    def slowest_node_s(self, /) -> float:
        """
        Its slowest node, seconds.
        """

@final
class HQDStatus:
    """
    Hardware queue slots of one GPU node, or summed over all. Counts are queues: a multi-XCC queue takes one slot.
    """
    __match_args__: Final[tuple[str, str, str, str, str, str, str, str, str, str, str]]
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, total: SupportsIndex, active: SupportsIndex, free: SupportsIndex, online_reserved: SupportsIndex, offline_used: SupportsIndex, offline_max: SupportsIndex = ..., preempted: SupportsIndex = ..., throttled: SupportsIndex = ..., queues_total: SupportsIndex = ..., num_xcc: SupportsIndex = ..., nodes: SupportsIndex = ...) -> HQDStatus: ...
    def __reduce__(self, /) -> tuple[type, tuple[int, int, int, int, int, int, int, int, int, int, int]]: ...
    def __repr__(self, /) -> str: ...
    @property
    def active(self, /) -> int:
        """
        Compute queues in the runlist; may exceed `total`.
        """
    @property
    def free(self, /) -> int:
        """
        `total - min(active, total)`, summed per node.
        """
    @property
    def nodes(self, /) -> int:
        """
        Nodes in this status.
        """
    @property
    def num_xcc(self, /) -> int:
        """
        XCCs of one node; a queue takes a hardware slot on each.
        """
    @property
    def offline_max(self, /) -> int:
        """
        Cap on active queues of the offline class.
        """
    @property
    def offline_used(self, /) -> int:
        """
        Active queues of the offline class.
        """
    @property
    def online_reserved(self, /) -> int:
        """
        Slots reserved for online queues.
        """
    @property
    def preempted(self, /) -> int:
        """
        Queues held unmapped, by any program.
        """
    @property
    def queues_total(self, /) -> int:
        """
        Queues created.
        """
    @property
    def throttled(self, /) -> int:
        """
        Queues that the reservation leaves out for now.
        """
    @property
    def total(self, /) -> int:
        """
        Queue slots.
        """

@final
class Monitor:
    """
    A running monitor. `gpreempt.HQDResourceMonitor` is what users see of it.
    """
    def __new__(cls, /, session: Session, interval: float | timedelta, low_water: SupportsFloat | SupportsIndex, high_water: SupportsFloat | SupportsIndex, clean_idle: bool, on_low: Any | None) -> Monitor:
        """
        Takes the first status, then starts the thread. `on_low` is called on it with the node's `gpu_id` and `HQDStatus`.
        """
    @property
    def running(self, /) -> bool: ...
    def status(self, /) -> HQDStatus: ...
    def stop(self, /) -> None:
        """
        Maps what it had unmapped and ends its thread; stopping twice is fine.
        """

@final
class Online:
    """
    One online request in flight; ends when left or collected.
    """
    @property
    def elapsed_s(self, /) -> float:
        """
        Time in the driver on entering, seconds of the machine's clock.
        """
    @property
    def error(self, /) -> BaseException | None:
        """
        What the driver could not do on entering; the request goes on.
        """
    def leave(self, /) -> BaseException | None:
        """
        Ends the request; leaving twice is fine. Returns what the driver could not do.
        """
    @property
    def rounds(self, /) -> int:
        """
        HWS rounds that took.
        """
    @property
    def unmapped(self, /) -> int:
        """
        Queues unmapped on entering.
        """

@final
class QueueInfo:
    """
    A queue, as discovery found it.
    """
    __match_args__: Final[tuple[str, str, str, str, str, str, str, str, str, str]]
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, queue_id: SupportsIndex, kfd_id: SupportsIndex, pid: SupportsIndex, gpu_id: SupportsIndex, priority: SupportsIndex | None = ..., type: str = ..., ring_bytes: SupportsIndex = ..., active: bool | None = ..., command: str = ..., cgroup: str = ...) -> QueueInfo: ...
    def __reduce__(self, /) -> tuple[type, tuple[int, int, int, int, int | None, str, int, bool | None, str, str]]: ...
    def __repr__(self, /) -> str: ...
    @property
    def active(self, /) -> bool | None:
        """
        Whether it is in the runlist; None where the machine does not tell it.
        """
    @property
    def cgroup(self, /) -> str:
        """
        cgroup v2 path of the owner, empty where unknown.
        """
    @property
    def command(self, /) -> str:
        """
        `/proc/<pid>/comm` of the owner.
        """
    @property
    def gpu_id(self, /) -> int:
        """
        GPU, by its topology `gpu_id`.
        """
    @property
    def kfd_id(self, /) -> int:
        """
        KFD queue id, 0 to 1023, unique only within the owner.
        """
    @property
    def pid(self, /) -> int:
        """
        Owner.
        """
    @property
    def priority(self, /) -> int | None:
        """
        KFD priority, 0 to 15; None where the machine does not tell it.
        """
    @property
    def queue_id(self, /) -> int:
        """
        The number that every call takes: the KFD id of an own queue, or a handle of 0x10000 or more.
        """
    @property
    def ring_bytes(self, /) -> int:
        """
        Ring size, bytes.
        """
    @property
    def type(self, /) -> str:
        """
        `compute`, `sdma` or `sdma-xgmi`.
        """

@final
class QueueStatus:
    """
    State of one queue, as the driver reports it.
    """
    __match_args__: Final[tuple[str, str, str, str, str, str, str, str]]
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, gpu_id: SupportsIndex, priority: SupportsIndex | None, policy: SupportsIndex, state: SupportsIndex, read_ptr: SupportsIndex | None = ..., write_ptr: SupportsIndex | None = ..., waves: SupportsIndex | None = ..., held_s: SupportsFloat | SupportsIndex = ...) -> QueueStatus: ...
    def __reduce__(self, /) -> tuple[type, tuple[int, int | None, int, int, int | None, int | None, int | None, float]]: ...
    def __repr__(self, /) -> str: ...
    @property
    def gpu_id(self, /) -> int:
        """
        GPU, by its topology `gpu_id`.
        """
    @property
    def held_s(self, /) -> float:
        """
        How long it has been held unmapped, seconds of the machine's clock.
        """
    @property
    def policy(self, /) -> int:
        """
        Policy in force, `QueuePolicy` bits.
        """
    @property
    def priority(self, /) -> int | None:
        """
        KFD priority, 0 to 15; None where the tier does not tell it.
        """
    @property
    def read_ptr(self, /) -> int | None:
        """
        Packets that the GPU has taken from the ring; None where the machine does not tell it.
        """
    @property
    def state(self, /) -> int:
        """
        State, the bits of `KFD_GPREEMPT_STATE_*` in the kernel's header; 1 = in the runlist, 8 = held unmapped.
        """
    @property
    def waves(self, /) -> int | None:
        """
        Live waves; None where not asked for or not told.
        """
    @property
    def write_ptr(self, /) -> int | None:
        """
        Packets that the owner has put into the ring; None where the machine does not tell it.
        """

@final
class Reservation:
    """
    What a reservation came to. Percentages round down to slots.
    """
    __match_args__: Final[tuple[str, str, str]]
    def __eq__(self, value: object, /) -> bool: ...
    def __hash__(self, /) -> int: ...
    def __ne__(self, value: object, /) -> bool: ...
    def __new__(cls, /, online_reserved: SupportsIndex, offline_max: SupportsIndex, nodes: SupportsIndex) -> Reservation: ...
    def __reduce__(self, /) -> tuple[type, tuple[int, int, int]]: ...
    def __repr__(self, /) -> str: ...
    @property
    def nodes(self, /) -> int:
        """
        Nodes it applies to.
        """
    @property
    def offline_max(self, /) -> int:
        """
        Cap on active offline queues, on the smallest node.
        """
    @property
    def online_reserved(self, /) -> int:
        """
        Slots kept for online queues, on the smallest node.
        """

@final
class Scheduler:
    """
    Unmaps offline queues while online work is in flight. `gpreempt.SmartQueueScheduler` is what users see of it.
    """
    def __new__(cls, /, session: Session, policy: str, grace: float | timedelta) -> Scheduler: ...
    def close(self, /) -> None: ...
    def enter(self, /) -> Online:
        """
        Enters an online request.
        """
    def latencies_ms(self, /) -> tuple[list[float], list[float]]:
        """
        Latencies so far of unmaps and of remaps, milliseconds of the machine's clock.
        """
    def readmit(self, /, gpu_id: int) -> int:
        """
        Takes such a GPU back; how many of its queues moved.
        """
    def register_offline(self, /, queue: int | QueueInfo) -> None: ...
    def register_offline_process(self, /, pid: int) -> int: ...
    def register_online(self, /, queue: int | QueueInfo) -> None: ...
    def report(self, /) -> str:
        """
        The statistics as JSON.
        """
    def take_error(self, /) -> BaseException | None:
        """
        First error since the last call, of any thread.
        """
    def tripped(self, /) -> list[int]:
        """
        GPUs, by gpu_id, that are left alone after a timeout or a reset.
        """
    def unregister(self, /, queue: int | QueueInfo) -> None: ...

@final
class Session:
    """
    One opened machine. All methods may be called from any thread; a context manager closes it.

    Wherever a queue is asked for, its number or its `QueueInfo` will do: below 1024 a number is the KFD id of a queue of
    this process, from 0x10000 on it is the handle that discovery or `register_queue` gave to another process's queue.

    None in an argument means: as the environment says, and without that the default.

    Args:
        backend: `auto` (for each process the best tier of the real machine that reaches it, or the simulated machine only
            where there is no /dev/kfd), `patched`, `debugger` or `sim`; `GPREEMPT_BACKEND`.
        clock: of the simulated machine: `real` or `virtual`; `GPREEMPT_SIM_CLOCK`.
        cost_model: its cost model, a name or a file; `GPREEMPT_SIM_COST_MODEL`.
        scenario: its scenario file; `GPREEMPT_SIM_SCENARIO`.
        empty: no process on it at all.
        topology: a recorded topology tree that it takes its GPUs from; `GPREEMPT_SIM_TOPOLOGY`.
        seed: of everything random on it; `GPREEMPT_SIM_SEED`.

    Raises:
        BackendUnavailableError: there is no such machine, or it cannot be used; the text says what to do.
        InvalidArgumentError: an argument, a variable or a file is wrong; the text says where.
    """
    def __enter__(self, /) -> Session: ...
    def __exit__(self, /, _kind: type | None, _error: BaseException | None, _traceback: Any | None) -> None: ...
    def __new__(cls, /, backend: str | None = None, *, clock: str | None = None, cost_model: str | None = None, scenario: str | PathLike[str] | None = None, empty: bool = False, topology: str | PathLike[str] | None = None, seed: SupportsIndex | None = None) -> Session: ...
    def __repr__(self, /) -> str: ...
    def _deadline(self, /, seconds: float | timedelta) -> float:
        """
        The time of the machine's clock when `seconds` will have passed.
        """
    def _sleep_towards(self, /, deadline: float | timedelta) -> bool:
        """
        Sleeps towards `deadline`, about 20 ms of wall time at most; whether it was reached. For waits that must notice
        something between two steps.
        """
    @property
    def clock(self, /) -> str:
        """
        `real`, or `virtual` where time passes on a simulated machine only as it is modelled to.
        """
    def close(self, /) -> None:
        """
        Ends the session: queues that it unmapped run again, and its monitors and schedulers stop.

        Closing twice does nothing. In a forked child nothing happens to what the parent holds.
        """
    @property
    def closed(self, /) -> bool:
        """
        Whether it is of no use any more: after `close`, and in a forked child.
        """
    @property
    def cost_model(self, /) -> str | None:
        """
        The cost model of a simulated machine; None where times are measured. On a `real` clock the times that a program
        sees also contain what this machine itself takes.
        """
    def describe(self, /) -> str:
        """
        One line that says what machine this is.
        """
    def fast_remap(self, /, queue: int | QueueInfo, slot: SupportsIndex = ...) -> Batch:
        """
        Puts one queue back on the hardware.

        Args:
            queue: which.
            slot: -1; the firmware picks the slot.

        Raises:
            UnsupportedError: any other slot was asked for.
            GpreemptError: as `remap`.
        """
    def idle_offline_queues(self, /) -> list[int]:
        """
        Numbers of the offline queues that are mapped although they have no work.
        """
    def is_active(self, /, queue: int | QueueInfo) -> bool:
        """
        Whether a queue is in the runlist.

        Raises:
            QueueNotFoundError, ProcessGoneError: it is gone.
        """
    def now(self, /) -> float:
        """
        Seconds since the machine booted, on its clock.
        """
    def queue_status(self, /, queue: int | QueueInfo, *, waves: bool = False) -> QueueStatus:
        """
        What the driver reports of a queue: state, policy, and how far its work has come.

        Args:
            queue: which.
            waves: count its live waves, too (slow).

        Raises:
            QueueNotFoundError, ProcessGoneError: it is gone.
            UnsupportedError: this tier cannot tell.
        """
    def queues(self, /) -> list[QueueInfo]:
        """
        All queues that discovery finds, ordered by owner and KFD id.

        Raises:
            BackendUnavailableError: there is no amdkfd any more.
        """
    def register_queue(self, /, pid: int, queue_id: int, gpu_id: int = ...) -> int:
        """
        The number of a queue of another process: a handle, the same one every time; an own queue's number is its KFD id.

        Args:
            pid: owner, in this process's pid namespace.
            queue_id: KFD queue id, 0 to 1023.
            gpu_id: GPU, where it matters; 0 = whichever it is on.

        Raises:
            InvalidArgumentError: the id is over 1023.
            ProcessGoneError, PermissionDenied, QueueNotFoundError: as the machine answers.
        """
    def remap(self, /, queues: Iterable[int | QueueInfo]) -> Batch:
        """
        Puts queues back on the hardware in one batch; mapping twice is fine.

        Args:
            queues: 1 to 1024 different queues.

        Raises:
            GpreemptError: as `unmap`.
        """
    def selective_unmap(self, /, queues: Iterable[int | QueueInfo], flags: int = ...) -> Batch:
        """
        As `unmap`, without grace.

        Args:
            queues: 1 to 1024 different queues.
            flags: `UnmapFlag`; NO_CWSR leaves queues that have work where they are, the others are always so.

        Raises:
            InvalidArgumentError: unknown flags.
            GpreemptError: as `unmap`.
        """
    def set_policy(self, /, queue: int | QueueInfo, policy: int) -> QueuePolicy:
        """
        Replaces the policy of a queue: flags (`QueuePolicy`) that are given are set, the others cleared.

        Returns:
            What is in force.

        Raises:
            InvalidArgumentError: unknown flags.
            BusyError: another program set one.
            QueueNotFoundError, ProcessGoneError, PermissionDenied: as the machine answers.
        """
    def set_queue_state(self, /, queue: int | QueueInfo, state: int) -> None:
        """
        Brings a queue into a state (`QueueState`): mapped, unmapped, or in the offline class.

        Raises:
            InvalidArgumentError: there is no such state.
            GpreemptError: as `unmap`.
        """
    def set_reservation(self, /, gpu_id: int, online_percent: int, offline_percent: int) -> Reservation:
        """
        Keeps a share of the slots for online queues and caps those that offline queues take; the rest take turns.

        0, 0 lifts the reservation, cap and all; 0 after any other `online_percent` stops all offline queues.

        Args:
            gpu_id: GPU; 0 = all.
            online_percent: 0 to 100.
            offline_percent: 0 to 100, together with the other no more than 100.

        Raises:
            InvalidArgumentError: not such percentages.
            QueueNotFoundError: no such GPU.
            PermissionDenied: this needs CAP_SYS_NICE.
            BusyError: another program reserves.
        """
    def sleep(self, /, seconds: float | timedelta) -> None:
        """
        Lets time pass on the machine's clock: on the wall, or in no time where the clock is virtual. Ctrl-C ends it.

        Args:
            seconds: how long; or a timedelta.
        """
    def status(self, /, gpu_id: int = ...) -> HQDStatus:
        """
        Slots of a GPU; 0 = the sum over all.

        Raises:
            QueueNotFoundError: no such GPU.
        """
    def tier_of(self, /, queue: int | QueueInfo) -> str:
        """
        The tier that a queue's process is reached by.
        """
    def tiers(self, /) -> list[str]:
        """
        The tiers that processes can be reached by, best first; docs/tiers.md says what each can do.
        """
    def unmap(self, /, queues: Iterable[int | QueueInfo], grace: float | timedelta = ...) -> Batch:
        """
        Takes queues off the hardware, all or nothing, with at most one HWS round per GPU.

        Their MQDs stay in memory, their work is saved. A registered queue that vanished counts as unmapped. Unmapping
        twice is fine; the queues run again at the latest when this process ends, or some seconds after it hangs.

        Args:
            queues: 1 to 1024 different queues.
            grace: seconds (or a timedelta) that waves may finish by themselves before their state is saved; 0 = the
                driver's default.

        Raises:
            InvalidArgumentError: no queue, too many, or one twice.
            QueueNotFoundError, PermissionDenied, BusyError: nothing was changed; the text names the queue.
            PreemptTimeoutError, ResettingError: the GPU is being reset.
        """

def _abandon_after_fork() -> None:
    """
    Closes in a forked child what it inherited: held open there, it would outlive the parent and keep queues unmapped.
    """

def refresh_logging() -> None:
    """
    Looks at the levels of Python's loggers again; they are cached so that a silent record costs nothing.
    """

def run_command(arguments: SupportsGetItem[int, str]) -> int:
    """
    Runs the `gpreempt` command and returns its exit status.
    """
