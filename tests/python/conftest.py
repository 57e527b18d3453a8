"""Every test has a machine of its own, on a virtual clock."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import gpreempt
from machines import Machine

# Programs that tests run, one of them with the name of a test.
collect_ignore = ["seed"]


@pytest.fixture(autouse=True)
def simulated(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The default session is the default scenario on a virtual clock, made anew for each test."""
    for name, value in {"BACKEND": "sim", "SIM_CLOCK": "virtual", "SIM_COST_MODEL": "design", "SIM_SEED": "1"}.items():
        monkeypatch.setenv(f"GPREEMPT_{name}", value)
    for name in ("SIM_SCENARIO", "SIM_TIER", "SIM_TOPOLOGY"):
        monkeypatch.delenv(f"GPREEMPT_{name}", raising=False)
    yield
    gpreempt.default_session().close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Counts and names what tiers cannot do, so that a green run does not hide it."""
    from test_conformance import SCENARIOS, TIERS, limits

    for tier in TIERS:
        lacking = [(scenario, why) for scenario, its, why in limits() if its == tier]
        terminalreporter.write_line(f"tier {tier}: {len(SCENARIOS)} scenarios, {len(lacking)} of them with a declared limit")
        for scenario, why in lacking:
            terminalreporter.write_line(f"  {scenario}: {why}")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A machine that a test may change before it boots."""
    return Machine(tmp_path)


@pytest.fixture
def session(machine: Machine) -> Iterator[gpreempt.Session]:
    """The usual machine, booted: two training processes and one online server."""
    with machine.open() as session:
        yield session
