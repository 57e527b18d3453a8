"""One class per errno, and each error says what, on what, and what to do."""

from __future__ import annotations

import datetime
import errno
import pickle
from pathlib import Path
from typing import Any

import pytest

import gpreempt
from gpreempt import GpreemptError, Session, errors
from machines import TRAINER, Machine, make_offline, queues_of

TABLE = [
    (errno.EINVAL, errors.InvalidArgumentError, ValueError),
    (errno.ENOENT, errors.QueueNotFoundError, LookupError),
    (errno.ESRCH, errors.ProcessGoneError, ProcessLookupError),
    (errno.EPERM, errors.PermissionDenied, PermissionError),
    (errno.EBUSY, errors.BusyError, OSError),
    (errno.ETIME, errors.PreemptTimeoutError, TimeoutError),
    (errno.EIO, errors.ResettingError, OSError),
    (errno.EACCES, errors.QueueResetError, OSError),
    (errno.EOPNOTSUPP, errors.UnsupportedError, OSError),
    (errno.ENODEV, errors.BackendUnavailableError, OSError),
    (errno.EBADF, errors.StaleError, OSError),
    (errno.ENOTRECOVERABLE, errors.InternalError, OSError),
    (errno.ENOMEM, GpreemptError, OSError),
]


@pytest.mark.parametrize(("number", "expected", "builtin"), TABLE, ids=lambda value: getattr(value, "__name__", value))
def test_an_errno_becomes_its_class(number: int, expected: type[GpreemptError], builtin: type[Exception]) -> None:
    error = GpreemptError(number, "mapping 1 queue: no")
    assert type(error) is expected
    assert isinstance(error, (GpreemptError, OSError)) and isinstance(error, builtin)
    assert error.errno == number and error.strerror == "mapping 1 queue: no"
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is expected and again.errno == number


def test_an_error_of_the_machine_names_operation_queue_and_errno(session: Session) -> None:
    queue = queues_of(session, TRAINER)[0]
    with pytest.raises(errors.PermissionDenied) as caught:
        session.unmap([queue])
    assert caught.value.errno == errno.EPERM
    assert "unmapping 1 queue" in str(caught.value)
    assert f"queue {queue.kfd_id} of pid {queue.pid}" in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"backend": "kvm"}, "debugger or sim"),
        ({"clock": "fast"}, "real or virtual"),
        ({"cost_model": "nonesuch"}, "nonesuch"),
        ({"scenario": "/nonexistent.toml"}, "/nonexistent.toml"),
        ({"scenario": "demo", "empty": True}, "empty"),
        ({"topology": "/nonexistent"}, "/nonexistent"),
    ],
)
def test_a_wrong_argument_says_what_it_may_be(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(errors.InvalidArgumentError, match=words):
        Session(**{"backend": "sim", **arguments})


def test_a_malformed_scenario_is_blamed_with_path_and_line(tmp_path: Path) -> None:
    path = tmp_path / "bad.toml"
    path.write_text("name = 'bad'\n[[process]]\nname = 'a'\npid = 'seven'\n")
    with pytest.raises(ValueError, match=r"bad\.toml:4"):
        Session("sim", scenario=path)


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPREEMPT_SIM_CLOCK", "sundial")
    with pytest.raises(errors.InvalidArgumentError, match="GPREEMPT_SIM_CLOCK=sundial"):
        Session()
    monkeypatch.delenv("GPREEMPT_SIM_CLOCK")


def test_the_real_machine_is_asked_for_by_name() -> None:
    if Path("/dev/kfd").exists():
        pytest.skip("what is missing without /dev/kfd can be seen only without /dev/kfd, and there is one")
    with pytest.raises(errors.BackendUnavailableError, match="/dev/kfd"):
        Session("patched")


@pytest.mark.parametrize("queue", [-1, 2**32, 2**80])
def test_a_number_that_can_name_no_queue_is_a_wrong_argument(session: Session, queue: int) -> None:
    with pytest.raises(ValueError, match="is not a number from 0"):
        session.is_active(queue)
    with pytest.raises(ValueError):
        session.remap([queue])


@pytest.mark.parametrize("queue", ["1", 1.0, None, [1]])
def test_what_is_no_queue_is_a_type_error(session: Session, queue: Any) -> None:
    with pytest.raises(TypeError):
        session.is_active(queue)
    with pytest.raises(TypeError):
        session.unmap([queue])


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), float("inf"), 1e300])
def test_a_time_that_cannot_pass_is_a_wrong_argument(session: Session, seconds: float) -> None:
    with pytest.raises(ValueError):
        session.sleep(seconds)
    with pytest.raises(ValueError):
        session.unmap([0x10000], grace=seconds)


def test_times_are_seconds_or_timedeltas(session: Session) -> None:
    queue = make_offline(session, TRAINER)[0]
    before = session.now()
    session.sleep(datetime.timedelta(milliseconds=250))
    session.sleep(1)
    assert session.now() - before == pytest.approx(1.25)
    assert session.unmap([queue], grace=datetime.timedelta(microseconds=100)).queues == 1
    with pytest.raises(TypeError):
        session.sleep("1")  # type: ignore[arg-type]


def test_a_process_that_is_gone_says_so_and_counts_as_unmapped(machine: Machine) -> None:
    machine.gone_at(TRAINER.pid, 5.0)
    with machine.open() as session:
        queues = make_offline(session, TRAINER)
        session.sleep(6.0)
        with pytest.raises(errors.ProcessGoneError):
            session.is_active(queues[0])
        with pytest.raises(ProcessLookupError):
            session.register_queue(TRAINER.pid, queues[0].kfd_id)
        assert session.unmap(queues).queues == 0
        assert session.remap(queues).queues == 0


def test_a_priority_range_is_checked(session: Session) -> None:
    for wrong in [(5, 4), (-1, 3), (0, 16)]:
        with pytest.raises(errors.InvalidArgumentError):
            gpreempt.scan_queues_by_priority(*wrong, session=session)
