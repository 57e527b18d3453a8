"""What the two programs of the preemption test have in common: GPU work where there is a GPU, until SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any, Callable, Optional

stopping = threading.Event()


def run(role: str, work: Callable[[Any], None]) -> int:
    """Calls ``work(torch)`` until SIGTERM, or says why it cannot; returns the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    if not os.path.exists("/dev/kfd"):
        print(f"{role}: no /dev/kfd here, so guests of the simulated machine's scenario play this part", flush=True)
        stopping.wait()
        return 0
    try:
        import torch
    except ImportError:
        print(f"{role}: PyTorch is missing; install one built for ROCm", file=sys.stderr)
        return 1
    if not torch.cuda.is_available():
        print(f"{role}: PyTorch {torch.__version__} sees no GPU; is it built for ROCm?", file=sys.stderr)
        return 1
    print(f"{role}: running on {torch.cuda.get_device_name(0)}", flush=True)
    while not stopping.is_set():
        work(torch)
    return 0


def _stop(signum: int, frame: Optional[FrameType]) -> None:
    stopping.set()
