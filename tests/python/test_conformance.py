"""One list of scenarios, three surfaces, every tier: C, Rust and Python give the same answers, however queues are reached.

Each file of tests/conformance is one scenario: the machine it runs on, and steps of a command and its answer. In an answer
`$name` stands for a word that is bound where it comes first and must be the same wherever it comes again (in commands, too),
`*` for any word, and `...` for any words up to the end. `?word` stands for the word, or on a stock kernel for -1: not known.
In a command `@N` stands for N handles.

A tier that cannot do what a step asks answers it in its own way, which is the third item of the step; `cannot` then says what
it lacks. machines/NAME.TIER.toml, where it exists, takes the place of machines/NAME.toml: its faults strike that tier's calls.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

import gpreempt

ROOT = Path(__file__).parents[2]
SCENARIOS = sorted((ROOT / "tests" / "conformance").glob("*.toml"))
SURFACES = ["c", "rust", "python"]
# What GPREEMPT_SIM_TIER may be: the kernel of the simulated machine, and what reaches its processes.
TIERS = ["patched", "agent", "debugger"]


@functools.cache
def runner(surface: str) -> list[str]:
    """The command that plays calls through a surface; builds it where it has to be built."""
    if surface == "python":
        return [sys.executable, str(ROOT / "tests" / "python" / "conformance_runner.py")]
    if surface == "c":
        cc = shutil.which("cc")
        if cc is None:
            pytest.skip("no C compiler, so nothing speaks C (package gcc)")
        try:
            library = gpreempt.library_path()
        except FileNotFoundError as error:
            pytest.skip(f"no C library in this installation: {error}")
        program = ROOT / "target" / "conformance-c"
        program.parent.mkdir(exist_ok=True)
        source = ROOT / "tests" / "c" / "conformance.c"
        command = [cc, "-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-I", str(ROOT / "include"), str(source)]
        command += ["-o", str(program), str(library), f"-Wl,-rpath,{library.parent}"]
        subprocess.run(command, check=True, capture_output=True, text=True)
        return [str(program)]
    cargo = shutil.which("cargo")
    if cargo is None:
        pytest.skip("no cargo, so nothing speaks Rust")
    build = [cargo, "build", "--quiet", "--package", "gpreempt", "--example", "conformance"]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, text=True)
    return [str(ROOT / "target" / "debug" / "examples" / "conformance")]


@dataclass
class Step:
    """A command and the answer it must get."""

    command: str
    answer: str


def bind(pattern: str, answer: str, names: dict[str, str], stock: bool = False) -> bool:
    """Whether an answer is what a pattern says; binds the names it meets first."""
    wanted, given = pattern.split(), answer.split()
    if wanted and wanted[-1] == "...":
        wanted = wanted[:-1]
        given = given[: len(wanted)]
    if len(wanted) != len(given):
        return False

    def same(want: str, got: str) -> bool:
        if want.startswith("?"):
            return got == want[1:] or (stock and got == "-1")
        return want == "*" or got == (names.setdefault(want, got) if want.startswith("$") else want)

    return all(map(same, wanted, given))


def spelled_out(word: str, names: dict[str, str]) -> str:
    """A word of a command as the runners read it."""
    if word.startswith("@"):
        return " ".join(str(0x10000 + number) for number in range(int(word[1:])))
    return names.get(word, word)


def play(command: list[str], machine: Path, tier: str, steps: list[Step]) -> list[str]:
    """Plays the steps; what differs from the answers wanted, as text."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GPREEMPT_")}
    environment |= {
        "GPREEMPT_BACKEND": "sim",
        "GPREEMPT_SIM_CLOCK": "virtual",
        "GPREEMPT_SIM_COST_MODEL": "design",
        "GPREEMPT_SIM_TIER": tier,
        "GPREEMPT_SIM_SCENARIO": str(machine),
    }
    names: dict[str, str] = {}
    wrong = []
    with subprocess.Popen(
        command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    ) as program:
        assert program.stdin is not None and program.stdout is not None
        for step in steps:
            line = " ".join(spelled_out(word, names) for word in step.command.split())
            program.stdin.write(line + "\n")
            answer = program.stdout.readline().rstrip("\n")
            if not bind(step.answer, answer, names, stock=tier != "patched"):
                wrong.append(f"{step.command} ({line}): wanted {step.answer!r}, got {answer!r}")
        program.stdin.close()
        if program.wait() != 0:
            wrong.append(f"the program ended with status {program.returncode}")
    return wrong


@pytest.mark.timeout(600)
@pytest.mark.parametrize("surface", SURFACES)
@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_every_surface_gives_the_answers_of(scenario: Path, tier: str, surface: str) -> None:
    content = tomllib.loads(scenario.read_text())
    machines = scenario.parent / "machines"
    machine = machines / f"{content['machine']}.{tier}.toml"
    if not machine.exists():
        machine = machines / f"{content['machine']}.toml"
    steps = [Step(command, others[0].get(tier, answer) if others else answer) for command, answer, *others in content["steps"]]
    assert content["about"] and machine.exists() and steps
    assert play(runner(surface), machine, tier, steps) == []


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda path: path.stem)
def test_what_a_tier_cannot_do_is_declared_where_it_answers_in_its_own_way(scenario: Path) -> None:
    content = tomllib.loads(scenario.read_text())
    differ = {tier for _, answer, *others in content["steps"] for tier in (others[0] if others else {})}
    assert differ == set(content.get("cannot", {}))
    assert differ <= set(TIERS) - {"patched"}


def test_the_page_on_tiers_lists_what_each_cannot_do() -> None:
    page = (ROOT / "docs" / "tiers.md").read_text()
    listed = {tuple(cell.strip() for cell in line.strip("|").split("|")) for line in page.splitlines() if line.startswith("| `")}
    wanted = {(f"`{scenario}`", tier, why) for scenario, tier, why in limits()}
    assert wanted == {row for row in listed if len(row) == 3 and row[1] in TIERS}


def limits() -> list[tuple[str, str, str]]:
    """Scenario, tier, and what the tier lacks for it."""
    found = ((path.stem, tomllib.loads(path.read_text()).get("cannot", {})) for path in SCENARIOS)
    return [(stem, tier, why) for stem, cannot in found for tier, why in cannot.items()]


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= 15


@pytest.mark.parametrize(
    ("pattern", "answer", "same"),
    [
        ("0", "0", True),
        ("0", "-22", False),
        ("0 $a $a", "0 7 7", True),
        ("0 $a $a", "0 7 8", False),
        ("2 * $b ...", "2 1 65536 9 9", True),
        ("2 *", "2", False),
        ("0 *", "0 1 2", False),
        ("0 ?2", "0 2", True),
        ("0 ?2", "0 -1", False),
    ],
)
def test_a_pattern_tells_right_from_wrong(pattern: str, answer: str, same: bool) -> None:
    assert bind(pattern, answer, {}) == same
