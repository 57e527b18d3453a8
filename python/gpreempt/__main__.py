"""The ``gpreempt`` command: the same program that ``cargo install`` gives."""

from __future__ import annotations

import signal
import sys

from gpreempt import _gpreempt


def main() -> int:
    """Runs the command with ``sys.argv`` and returns its exit status."""
    # No Python code runs from here on: Ctrl-C and a closed pipe end the program as they end any other command.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    return _gpreempt.run_command(["gpreempt", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
