"""A job's results file: what was measured at every step, as CSV; its size is kept while the steps are reported."""

import csv
import io
from collections.abc import Iterable, Mapping
from typing import Any

COLUMNS = {
    "step": "step",
    "train_loss": "loss",
    "valid_loss": "eval_loss",
    "learning_rate": "learning_rate",
    "tokens_per_second": "tokens_per_second",
}
"""Each column of the file, and the metric's name in the job's events."""
KINDS = ("step", "evaluation")
"""Events that hold what is in the file; of each kind there is one for a step at most, in the order of steps."""


def results_file(measured: Iterable[Mapping[str, Any]]) -> bytes:
    """Return the file: a row per step, with what was measured after it; a field is empty where nothing was."""
    rows: dict[int, dict[str, Any]] = {}
    for data in measured:
        rows.setdefault(data["step"], {}).update(data)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_fields(rows[step]) for step in sorted(rows))
    return text.getvalue().encode()


HEADER_BYTES = len(results_file([]))


def added_bytes(data: Mapping[str, Any], *, to_a_row: bool) -> int:
    """Return by how much an event's data makes the file longer; `to_a_row`: its step has a row already."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(_fields(data))
    if not to_a_row:
        return len(text.getvalue())
    return len(text.getvalue()) - len(str(data["step"])) - len(COLUMNS)


def _fields(data: Mapping[str, Any]) -> list[Any]:
    return [data.get(metric) for metric in COLUMNS.values()]
