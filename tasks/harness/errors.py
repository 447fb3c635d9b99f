"""What keeps a benchmark from being measured, in words that name what to do."""


class BenchmarkError(Exception):
    """A benchmark can't be measured; the message says why."""


class HarnessMissing(BenchmarkError):
    """lm-eval is not installed: it is an extra."""


class UnknownTask(BenchmarkError):
    """No file in the benchmarks folder defines a task of this name."""


class DataUnreachable(BenchmarkError):
    """A task's data are not on this machine; no hub is asked for them."""


class TaskUnusable(BenchmarkError):
    """A task's file can't be used as it stands."""
