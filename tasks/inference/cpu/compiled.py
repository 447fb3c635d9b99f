"""The step as machine code: compiled once for this machine and this source text, then read from a file."""

import hashlib
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import llvmlite.binding as llvm
from numba import config, njit

from tasks.inference.cpu.kernel import OPTIONS
from tasks.inference.cpu.step import run_step

_SOURCES = Path(__file__).parent


def supported() -> bool:
    """Whether this CPU multiplies and adds vectors in one instruction; without, torch is the better choice."""
    if llvm.get_default_triple().startswith("x86_64"):
        return bool(llvm.get_host_cpu_features().get("fma"))
    return bool(llvm.get_default_triple().startswith(("aarch64", "arm64")))


@cache
def compiled_step() -> Callable[..., None]:
    """`run_step` as a function that numba compiles at its first call, some seconds, or loads, a fraction of one."""
    before = config.CACHE_DIR
    config.CACHE_DIR = str(_cache_folder())  # numba itself notices a change of run_step's own file only
    try:
        step: Callable[..., None] = njit(nogil=True, cache=True, **OPTIONS)(run_step)
    finally:
        config.CACHE_DIR = before
    return step


def _cache_folder() -> Path:
    digest = hashlib.sha256()
    for source in sorted(_SOURCES.glob("*.py")):
        digest.update(source.read_bytes())
    name = f"kernels-{digest.hexdigest()[:16]}"
    beside = _SOURCES / "__pycache__"
    if os.access(beside if beside.is_dir() else _SOURCES, os.W_OK):
        return beside / name
    return Path.home() / ".cache" / "llm-platform" / name  # not a folder that others can write: it holds code
