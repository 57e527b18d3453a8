"""What the wheel carries, what it logs, and that its stub is true."""

from __future__ import annotations

import ctypes
import doctest
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpreempt
from gpreempt import Session

ROOT = Path(__file__).parents[2]


def carried_library() -> Path:
    """The C library of this installation."""
    try:
        return gpreempt.library_path()
    except FileNotFoundError as error:
        pytest.skip(f"no C library in this installation: {error}")


def test_the_package_carries_the_c_library_and_its_header() -> None:
    library = ctypes.CDLL(str(carried_library()))
    assert library.gpreempt_poc_init() == 0
    assert library.gpreempt_set_hqd_reservation(0, 10, 80) == 0
    assert library.gpreempt_poc_cleanup() == 0
    header = (gpreempt.include_path() / "gpreempt_poc_v2.h").read_text()
    assert "gpreempt_batch_unmap_queues" in header


def test_the_package_is_typed_and_has_one_version() -> None:
    assert (Path(gpreempt.__file__).parent / "py.typed").exists()
    assert gpreempt.__version__ == importlib.metadata.version("gpreempt")


def test_the_command_is_installed_and_says_its_version() -> None:
    for command in ([str(Path(sys.executable).parent / "gpreempt")], [sys.executable, "-m", "gpreempt"]):
        run = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=30)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.startswith("gpreempt ") and gpreempt.__version__ in run.stdout
        assert subprocess.run([*command, "--nonsense"], capture_output=True, timeout=30).returncode == 2


def test_the_command_takes_a_reader_that_went_away_for_no_failure() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"GPREEMPT_BACKEND": "sim"}
    command = [sys.executable, "-m", "gpreempt", "queues"]
    try:
        run = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, env=environment, timeout=30)
    finally:
        os.close(writer)
    assert (run.returncode, run.stderr) == (0, "")


def test_the_extension_exports_none_of_the_c_functions() -> None:
    nm = shutil.which("nm")
    if nm is None:
        pytest.skip("nm is missing (package binutils)")
    extension = gpreempt._gpreempt.__file__
    assert extension is not None
    symbols = subprocess.run([nm, "-D", "--defined-only", extension], capture_output=True, text=True, check=True).stdout
    assert "PyInit__gpreempt" in symbols
    assert "gpreempt_poc" not in symbols


def test_records_go_to_python_s_loggers(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="gpreempt"):
        gpreempt.refresh_logging()
        with Session("sim", clock="virtual") as session:
            queue = session.queues()[0]
            session.register_queue(queue.pid, queue.kfd_id)
    gpreempt.refresh_logging()
    assert any(record.name.startswith("gpreempt.session") for record in caplog.records)


@pytest.mark.timeout(900)
def test_the_stub_is_what_the_module_says_of_itself(tmp_path: Path) -> None:
    if shutil.which("cargo") is None:
        pytest.skip("cargo is missing, so the stub cannot be generated")
    maturin = Path(sys.executable).parent / "maturin"
    if not maturin.exists():
        pytest.skip("maturin is missing from this environment (tests/python/requirements.txt)")
    command = [str(maturin), "generate-stubs", "--profile", "release", "--quiet", "--out", str(tmp_path)]
    command += ["--interpreter", sys.executable, "--target-dir", "target/py"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=900)
    generated = (tmp_path / "gpreempt" / "_gpreempt.pyi").read_text()
    committed = (ROOT / "python" / "gpreempt" / "_gpreempt.pyi").read_text()
    assert generated == committed, f"to renew it: {' '.join(command)}"


def test_every_public_name_has_a_docstring() -> None:
    for name in gpreempt.__all__:
        thing = getattr(gpreempt, name)
        assert name == "__version__" or thing.__doc__, name
        if isinstance(thing, type) and thing.__module__.startswith("gpreempt"):
            for attribute, member in vars(thing).items():
                if not attribute.startswith("_") and (callable(member) or isinstance(member, property)):
                    assert member.__doc__, f"{name}.{attribute}"


def test_the_example_of_the_package_runs() -> None:
    outcome = doctest.testmod(gpreempt)
    assert outcome.attempted > 0 and outcome.failed == 0
