"""Measures what a Python call on one queue costs: an unmap of a queue that is unmapped already, as the C benchmark does."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter_ns

from gpreempt import QueuePolicy, Session

CALLS = 20_000
SCENARIO = """
name = "call"
about = "An idle queue."

[[process]]
name = "python3"
pid = 43001

[[process.queue]]
nodes = [0]
"""


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        scenario = Path(folder) / "call.toml"
        scenario.write_text(SCENARIO)
        with Session("sim", clock="virtual", scenario=str(scenario)) as session:
            queue = session.register_queue(43001, 0)
            session.set_policy(queue, QueuePolicy.PREEMPTIBLE)
            queues, times = [queue], []
            for _ in range(CALLS):
                start = perf_counter_ns()
                session.unmap(queues, 0)
                times.append(perf_counter_ns() - start)
    print(f"Python call, 1 queues: p50 of {CALLS} {median(times) / 1000:.2f} us (measured on the simulated machine)")


if __name__ == "__main__":
    main()
