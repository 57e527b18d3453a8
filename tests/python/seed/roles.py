"""What the two programs of the preemption test have in common: GPU work where there is a GPU, until SIGTERM."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import dataclass
from types import FrameType
from typing import Any, Callable, Optional

import kfd_queue

stopping = threading.Event()


@dataclass(frozen=True)
class Packets:
    """What a role does on fake GPUs, which no model runs on."""

    priority: int
    queues: int
    """On each GPU."""
    burst: int
    """Packets that a queue gets at a time."""
    cost_us: int
    pause_s: float
    """Between the end of a burst and the next one; without a pause there is always work."""


def run(role: str, work: Callable[[Any], None], packets: Packets) -> int:
    """Calls ``work(torch)`` until SIGTERM, or says why it cannot; returns the exit status."""
    signal.signal(signal.SIGTERM, _stop)
    if not os.path.exists("/dev/kfd"):
        print(f"{role}: no /dev/kfd here, so guests of the simulated machine's scenario play this part", flush=True)
        stopping.wait()
        return 0
    if kfd_queue.gpus_are_fake():
        return _run_packets(role, packets)
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


def _run_packets(role: str, packets: Packets) -> int:
    queues = [
        kfd_queue.Queue(gpu, packets.priority) for gpu in kfd_queue.open_gpus() for _ in range(packets.queues)
    ]
    print(f"{role}: {len(queues)} queues on fake GPUs", flush=True)
    while not stopping.is_set():
        for queue in queues:
            queue.feed(packets.burst, packets.cost_us)
        if packets.pause_s:
            while any(queue.area.taken < queue.area.submitted for queue in queues) and not stopping.wait(0.001):
                pass
        stopping.wait(packets.pause_s or 0.002)
    for queue in queues:
        queue.destroy()
    done = sum(queue.area.done for queue in queues)
    whole = all(queue.area.whole for queue in queues)
    print(f"{role}: {done} packets, {'each once and in order' if whole else 'SOME LOST OR TWICE'}", flush=True)
    return 0 if whole and done else 1


def _stop(signum: int, frame: Optional[FrameType]) -> None:
    stopping.set()
