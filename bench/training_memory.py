"""Peak memory of training beside what the plan expects: `python -m bench.training_memory`, two steps at each point.

`python -m bench.training_memory families` measures a step of each family of models instead.
"""

import sys

from bench.training_points import Point, measure
from configs.recipe import Method
from registry.model_families import FAMILIES

METHODS_PADDED: tuple[Method, ...] = ("dora", "full")
POINTS = [
    *(Point(path, *rows) for path in ("packed", "padded") for rows in ((1, 128), (4, 128), (4, 512), (1, 1024))),
    *(Point("packed", *rows) for rows in ((16, 128), (8, 512), (4, 1024))),
    *(Point(path, *rows, rank=64) for path, rows in (("packed", (4, 512)), ("padded", (2, 512)))),
    *(Point(path, *rows, dtype="float32") for path, rows in (("packed", (4, 512)), ("padded", (2, 512)))),
    *(Point(path, 4, 512, recompute=True) for path in ("packed", "padded")),
    *(Point("padded", *rows, method=method) for method in METHODS_PADDED for rows in ((1, 128), (4, 512))),
    *(Point("padded", *rows, method="full", steps=4, background_saves=True) for rows in ((1, 128), (4, 512))),
    Point("padded", 4, 512, model="gpt2"),
    Point("padded", 4, 512, model="gpt2", dtype="float32"),
]
FAMILY_POINTS = [Point("padded", 4, 256, model=family) for family in sorted(FAMILIES)]


def main() -> None:
    """Measure every point and print a table."""
    named = sys.argv[2:] or sorted(FAMILIES)
    points = [point for point in FAMILY_POINTS if point.model in named] if "families" in sys.argv else POINTS
    print(
        "| model | method | path | rows x tokens | rank | precision | recomputed | saved from a copy | measured, GB | "
        "estimated, GB | ÷ |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for point in points:
        figures = measure(point)
        measured, estimated = figures.peak_bytes / 1e9, figures.estimated_bytes / 1e9
        recompute, copied = ("yes" if said else "" for said in (point.recompute, point.background_saves))
        print(
            f"| {point.model} | {point.method} | {point.path} | {point.rows} x {point.length} | "
            f"{'' if point.method == 'full' else point.rank} | {point.dtype} | {recompute} | {copied} | "
            f"{measured:.2f} | {estimated:.2f} | {estimated / measured:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
