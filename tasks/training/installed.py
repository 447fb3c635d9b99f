"""Whether bitsandbytes is installed: can be asked without importing torch."""

from importlib.util import find_spec

from tasks.training.errors import MethodUnavailable

INSTALL = ".venv/bin/pip install -c constraints.txt -e '.[qlora]'"


def require_bitsandbytes() -> None:
    """Raise MethodUnavailable, with what to do, if bitsandbytes is not installed."""
    if find_spec("bitsandbytes") is None:
        raise MethodUnavailable(
            f"method 'qlora' needs the package bitsandbytes, which is an extra, and a CUDA GPU: run {INSTALL} in the "
            "platform's folder, or train by lora, rslora, dora or full"
        )
