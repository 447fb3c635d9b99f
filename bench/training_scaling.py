"""How training speed and memory grow with a step's shape: `python -m bench.training_scaling`.

One table each for the rows of a micro-batch, the tokens of a row and the rank of the adapter, while the other two stay
as in `BASE`; each point in a process of its own, one after the other in each round. Ratios are to the table's first
point. What is trained, and on what, says `bench.training_points`.
"""

import argparse
import json
import os
import statistics
import sys
from collections import defaultdict
from dataclasses import asdict, replace

from bench.training_points import Figures, Point, measure

BASE = Point("packed", rows=4, length=512, rank=8)
AXES = {
    "rows": ("rows of a micro-batch", [1, 4, 8, 16]),
    "length": ("tokens of a row", [128, 512, 1024]),
    "rank": ("rank", [8, 64]),
}


def print_table(name: str, points: dict[int, Point], runs: dict[Point, list[Figures]]) -> None:
    """Print the medians of the points of one axis, and their ratios to those of the first."""
    first, *_ = points.values()
    others = ", ".join(f"{what} {getattr(first, axis)}" for axis, (what, _) in AXES.items() if what != name)
    print(f"\n{first.path}, {others}")
    print(f"| {name} | tokens/s | ÷ first | tokens/CPU s | ÷ first | peak GB | ÷ first |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    medians = {
        value: [
            statistics.median(run.tokens_per_second for run in runs[point]),
            statistics.median(run.tokens_per_cpu_second for run in runs[point]),
            statistics.median(run.peak_bytes / 1e9 for run in runs[point]),
        ]
        for value, point in points.items()
    }
    start, *_ = medians.values()
    for value, (speed, cpu_speed, peak) in medians.items():
        print(
            f"| {value} | {speed:.0f} | {speed / start[0]:.2f} | {cpu_speed:.0f} | {cpu_speed / start[1]:.2f} | "
            f"{peak:.2f} | {peak / start[2]:.2f} |",
            flush=True,
        )


def main() -> None:
    """Measure every point in each round, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    for axis, (what, values) in AXES.items():
        parser.add_argument(f"--{axis}", type=int, nargs="*", default=values, help=f"{what}; none: no such table")
    parser.add_argument("--path", choices=["packed", "padded"], default=BASE.path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="steps of a point, of which the first is not timed")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error(f"--steps is {options.steps}; it must be at least 2, as the first step is not timed")
    base = replace(BASE, path=options.path, steps=options.steps)
    tables = {axis: {value: replace(base, **{axis: value}) for value in getattr(options, axis)} for axis in AXES}
    runs: dict[Point, list[Figures]] = defaultdict(list)
    for _ in range(options.rounds):
        for point in dict.fromkeys(point for points in tables.values() for point in points.values()):
            runs[point].append(measure(point))
            load = f"load {os.getloadavg()[0]:.1f}"
            print(json.dumps(asdict(point) | asdict(runs[point][-1])), load, file=sys.stderr, flush=True)
    print(f"medians of {options.rounds} rounds of {options.steps - 1} timed steps")
    for axis, points in tables.items():
        if points:
            print_table(AXES[axis][0], points, runs)


if __name__ == "__main__":
    main()
