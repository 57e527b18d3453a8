"""Finding queues."""

from __future__ import annotations

import errno
from typing import Optional

from gpreempt._gpreempt import QueueInfo, Session
from gpreempt.default import default_session
from gpreempt.errors import InvalidArgumentError

__all__ = ["scan_queues_by_priority"]


def scan_queues_by_priority(min_prio: int, max_prio: int, session: Optional[Session] = None) -> list[QueueInfo]:
    """All queues whose KFD priority is at least ``min_prio`` and at most ``max_prio``, ordered by owner and id.

    KFD priorities run from 0 to 15. ROCr gives every queue the same one, so this finds queues that were made with one;
    :meth:`Session.queues` tells process, command and cgroup for telling them apart in earnest. Queues whose priority the
    machine does not tell are left out.

    Args:
        min_prio: lowest priority wanted.
        max_prio: highest priority wanted.
        session: where to look; None = the default session.

    Raises:
        InvalidArgumentError: not ``0 <= min_prio <= max_prio <= 15``.
        BackendUnavailableError: there is no machine.
    """
    if not 0 <= min_prio <= max_prio <= 15:
        raise InvalidArgumentError(errno.EINVAL, f"priorities {min_prio} to {max_prio} are not a range within 0 to 15")
    queues = (session or default_session()).queues()
    return [queue for queue in queues if queue.priority is not None and min_prio <= queue.priority <= max_prio]
