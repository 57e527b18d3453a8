"""Old and new library over 100 iterations: mean, median, p95, p99 and maximum, modelled with cost model `design`.

As a test it checks the order; as a program (`python tests/python/performance_comparison.py`) it prints the table.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from machines import Guest, Machine, make_offline

ITERATIONS = 100


def compare(folder: Path, queues: int) -> dict[str, list[float]]:
    """Milliseconds of machine time in which all queues were off the hardware, per way."""
    times: dict[str, list[float]] = {"one call per queue": [], "one batch": []}
    machine = Machine(folder, guests=(Guest(4_182_001, queues=queues),))
    for way, samples in times.items():
        with machine.open() as session:
            offline = make_offline(session, *machine.guests)
            for _ in range(ITERATIONS):
                calls = [offline] if way == "one batch" else [[queue] for queue in offline]
                samples.append(sum(session.unmap(call).elapsed_s for call in calls) * 1e3)
                session.remap(offline)
                session.sleep(0.05)
    return times


def row(samples: list[float]) -> dict[str, float]:
    """One row of the table."""
    percentiles = statistics.quantiles(samples, n=100, method="inclusive")
    return {
        "mean": statistics.fmean(samples),
        "p50": percentiles[49],
        "p95": percentiles[94],
        "p99": percentiles[98],
        "max": max(samples),
    }


def test_performance_comparison(tmp_path: Path) -> None:
    times = compare(tmp_path, queues=6)
    assert all(len(samples) == ITERATIONS for samples in times.values())
    old, new = (row(samples) for samples in times.values())
    # Six rounds against one of the same cost each.
    assert all(new[column] < old[column] for column in old)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print("unmapping 6 queues, ms, modelled (cost model design)")
        print(f"{'':20}" + "".join(f"{column:>9}" for column in ("mean", "p50", "p95", "p99", "max")))
        for way, samples in compare(Path(folder), queues=6).items():
            print(f"{way:20}" + "".join(f"{value:9.3f}" for value in row(samples).values()))
