"""The ``gpreempt`` command: the same program that ``cargo install`` gives."""

from __future__ import annotations

import signal
import sys

from gpreempt import _gpreempt


def main() -> int:
    """Runs the command with ``sys.argv`` and returns its exit status."""
    # No Python code runs from here on: Ctrl-C ends the program as it ends any other command. SIGPIPE stays ignored, as
    # Python and the Rust runtime both have it: the command takes a reader that went away for no failure.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    return _gpreempt.run_command(["gpreempt", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
