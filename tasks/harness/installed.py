"""Whether lm-eval is installed: the only module of this package that can be imported without it."""

from tasks.harness.errors import HarnessMissing

INSTALL = ".venv/bin/pip install -c constraints.txt -e '.[benchmark]'"


def harness_version() -> str:
    """Return the version of lm-eval. Raises `HarnessMissing`, with what to do, if it is not installed."""
    try:
        from lm_eval import __version__
    except ImportError as error:
        raise HarnessMissing(
            f"lm-eval is not installed ({error}). Benchmarks are an extra: run {INSTALL} in the platform's folder, "
            "restart the platform, and start the benchmark again."
        ) from error
    return str(__version__)
