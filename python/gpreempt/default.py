"""The session that calls without one share."""

from __future__ import annotations

import os
import threading
from typing import Optional

from gpreempt._gpreempt import Session, _abandon_after_fork

__all__ = ["default_session"]

_lock = threading.Lock()
_session: Optional[Session] = None


def default_session() -> Session:
    """The shared session, made on first use as the environment says (``GPREEMPT_BACKEND``, ``GPREEMPT_SIM_*``).

    After :meth:`Session.close` the next call makes a new one. A forked child makes its own: what the parent unmapped
    stays with the parent.

    Raises:
        BackendUnavailableError: there is no machine; the text says what to do.
        InvalidArgumentError: a variable of the environment, or a file that it names, is wrong.
    """
    global _session
    with _lock:
        if _session is None or _session.closed:
            _session = Session()
        return _session


def _after_fork_in_child() -> None:
    global _lock
    _abandon_after_fork()
    # A thread of the parent may have held the lock. The session itself counts as closed from now on.
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
