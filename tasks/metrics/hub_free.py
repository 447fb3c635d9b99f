"""The base of our `evaluate` metrics: they need no hub, and leave nothing on disk."""

import tempfile

import evaluate


class HubFreeMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """A metric whose code is here instead of in a script that `evaluate.load` would fetch.

    Subclasses define `_info` and `_compute`; callers use `compute(predictions=…, references=…)`.
    """

    def __init__(self) -> None:
        # evaluate makes a cache folder in the user's home even for a metric that keeps its inputs in memory; the one
        # it gets here is empty, unused and gone at once.
        with tempfile.TemporaryDirectory() as folder:
            super().__init__(keep_in_memory=True, cache_dir=folder)
