"""Flows for the tests of the worker."""

import os
import sys
import time
from pathlib import Path

from prefect import flow, get_run_logger


@flow
def report(folder: str) -> None:
    """Leave behind how this run was started."""
    warm = "torch" in sys.modules and "transformers" in sys.modules
    get_run_logger().info("warm: %s, leads its session: %s", warm, os.getsid(0) == os.getpid())
    (Path(folder) / "warm").write_text(str(warm))


@flow
def wait(folder: str) -> None:
    """Run until told to stop, noting that it was."""
    (Path(folder) / "pid").write_text(str(os.getpid()))
    try:
        while True:
            time.sleep(0.05)
    finally:
        (Path(folder) / "left").write_text("in order")


@flow
def die() -> None:
    """End as a process does that runs out of memory."""
    os.kill(os.getpid(), 9)
