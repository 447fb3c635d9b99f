"""One load at a time in a process: what transformers and peft change for all threads while they load, and back again.

`from_pretrained` sets torch's default dtype, and replaces `PreTrainedModel.tie_weights` by nothing, for the whole
process, and puts back what it found. Two that overlap put back each other's (transformers#44940): no model with a tied
head loads any more, and random numbers are drawn in another precision. Whatever builds a model does so in `loading`.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_LOCK = threading.RLock()
_DEFAULT_DTYPE = torch.get_default_dtype()
_TIE_WEIGHTS = PreTrainedModel.tie_weights
_LINSPACE = torch.linspace


@contextmanager
def loading() -> Iterator[None]:
    """Hold every other load of the process off; before and after it the process's globals are what they were at first.

    May be nested.
    """
    with _LOCK:
        _mend()
        try:
            yield
        finally:
            _mend()


def _mend() -> None:
    if (found := _damage()) is not None:
        logger.error("a load left the process changed (%s); it is put back", found)
        torch.set_default_dtype(_DEFAULT_DTYPE)
        PreTrainedModel.tie_weights = _TIE_WEIGHTS
        torch.linspace = _LINSPACE


def damage() -> str | None:
    """Return what is not as it was when the process began, in a phrase; None: all is well, or a load is running."""
    if not _LOCK.acquire(blocking=False):
        return None
    try:
        return _damage()
    finally:
        _LOCK.release()


def _damage() -> str | None:
    if torch.get_default_dtype() != _DEFAULT_DTYPE:
        return f"torch's default dtype is {torch.get_default_dtype()}, and was {_DEFAULT_DTYPE}"
    if PreTrainedModel.tie_weights is not _TIE_WEIGHTS:
        return "transformers' tie_weights has been replaced: models with a tied head don't load"
    if torch.linspace is not _LINSPACE:
        return "torch.linspace has been replaced"
    return None
