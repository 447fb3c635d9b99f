"""What goes wrong when something is measured."""


class MetricError(ValueError):
    """A metric has no value for this input; the sentence says why."""
