"""Numba options of the step's functions: callable from compiled code only, without reference counting."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])

OPTIONS = {"error_model": "numpy", "_nrt": False, "no_cfunc_wrapper": True}
"""No exceptions for divisions, so that loops vectorise; no counting of references, which threads would contend for."""


def kernel(function: Function) -> Function:
    """A function that only compiled functions call."""
    return _compiled(function, fastmath=False)


def reducing_kernel(function: Function) -> Function:
    """A kernel whose sums over a row's own numbers are split over lanes; the split depends on their length alone."""
    return _compiled(function, fastmath={"reassoc", "contract", "nsz"})


def _compiled(function: Function, fastmath: bool | set[str]) -> Function:
    compiled: Function = njit(fastmath=fastmath, no_cpython_wrapper=True, **OPTIONS)(function)
    return compiled
