"""Value classes: compare, hash, match, pickle, copy."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from gpreempt import Batch, HQDStatus, QueueInfo, QueuePolicy, QueueStatus, Reservation

VALUES = [
    HQDStatus(24, 20, 4, 2, 18, 19),
    QueueInfo(0x10000, 3, 4_182_001, 63432, 2, "compute", 4096, True, "train", "/offline"),
    QueueInfo(5, 5, 1, 63432),
    QueueStatus(63432, 2, 4, 1, 10, 12, None, 0.5),
    Batch(4, 1, 1, 0.001, 0.0005),
    Reservation(2, 19, 8),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_survives_pickling_and_copying(value: Any) -> None:
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        other = pickle.loads(pickle.dumps(value, protocol))
        assert other == value and hash(other) == hash(value) and repr(other) == repr(value)
    assert copy.deepcopy(value) == value
    assert eval(repr(value)) == value


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_value_is_frozen_and_differs_from_others(value: Any) -> None:
    for name in type(value).__match_args__:
        with pytest.raises(AttributeError):
            setattr(value, name, 1)
    assert value != "something else"
    assert len({*VALUES}) == len(VALUES)


def test_the_status_of_the_design_constructs_and_matches() -> None:
    status = HQDStatus(0, 0, 0, 0, 0)
    assert status.offline_max == 0
    assert status != HQDStatus(0, 0, 0, 0, 0, throttled=1)
    assert HQDStatus.__match_args__[:6] == (
        "total",
        "active",
        "free",
        "online_reserved",
        "offline_used",
        "offline_max",
    )


def test_policy_flags_take_the_design_s_number() -> None:
    assert QueuePolicy(0x7) == QueuePolicy.LAZY_ACTIVATION | QueuePolicy.AUTO_DEACTIVATION | QueuePolicy.PREEMPTIBLE
