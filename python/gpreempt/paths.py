"""Where the C library and its header are."""

from __future__ import annotations

from pathlib import Path

__all__ = ["include_path", "library_path"]


def library_path() -> Path:
    """The path of ``libgpreempt_poc_v2.so``, for :class:`ctypes.CDLL` or a linker.

    The C library has a state of its own: its sessions and those of this package do not know each other.

    Raises:
        FileNotFoundError: this installation carries no library (wheels made by ``make wheel`` do).
    """
    return _carried("libgpreempt_poc_v2.so")


def include_path() -> Path:
    """The folder that holds ``gpreempt_poc_v2.h``.

    Raises:
        FileNotFoundError: this installation carries no header (wheels made by ``make wheel`` do).
    """
    return _carried("gpreempt_poc_v2.h").parent


def _carried(name: str) -> Path:
    path = Path(__file__).resolve().parent / name
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: this installation was not made from the wheel of `make wheel`")
    return path
