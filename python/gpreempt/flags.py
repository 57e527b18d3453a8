"""Flags and states of queues, with the numbers of the C library."""

from __future__ import annotations

from enum import IntEnum, IntFlag

__all__ = ["QueuePolicy", "QueueState", "UnmapFlag"]


class QueuePolicy(IntFlag):
    """What may happen to a queue (``GPREEMPT_QUEUE_*`` in C)."""

    LAZY_ACTIVATION = 1
    """Unmapped when idle; a running :class:`gpreempt.HQDResourceMonitor` maps it when it gets work."""
    AUTO_DEACTIVATION = 2
    """May be unmapped when idle, by a monitor, which maps it again when it gets work."""
    PREEMPTIBLE = 4
    """The offline class: may be unmapped for online work."""


class QueueState(IntEnum):
    """Where a queue should be (:meth:`gpreempt.Session.set_queue_state`)."""

    ACTIVE = 0
    """On the hardware: mapped."""
    INACTIVE = 1
    """Off the hardware: unmapped, its MQD kept."""
    PREEMPTIBLE = 2
    """On the hardware, and in the offline class."""


class UnmapFlag(IntFlag):
    """How :meth:`gpreempt.Session.selective_unmap` takes queues off the hardware (``GPREEMPT_UNMAP_*`` in C)."""

    KEEP_MQD = 1
    """Keep the MQD in memory; always so."""
    KEEP_STATE = 2
    """Keep the state of the queue; always so."""
    NO_CWSR = 4
    """Save no waves: leave queues that have work where they are."""
