"""Mixed precision: half-precision base layers with float32 trained weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft.helpers import disable_input_dtype_casting

from tasks.training.adapter import TrainedModel


def base_dtype(model: TrainedModel) -> torch.dtype:
    """Return the format of the base weights."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


@contextmanager
def forward_precision(model: TrainedModel, dtype: torch.dtype) -> Iterator[None]:
    """Compute a forward pass in `dtype`, with the weights that train, which are stored in float32.

    By default peft widens the input of each adapted layer to float32, dropout and all; over a bfloat16 base autocast
    instead narrows the small adapter matrices, which costs far less. Where all weights train, it narrows those. The
    context must end with the pass, because autocast keeps the narrowed copies until then.
    """
    if dtype == torch.float32:
        yield
        return
    device_type = model.get_input_embeddings().weight.device.type
    with torch.autocast(device_type, dtype=dtype), disable_input_dtype_casting(model):
        yield
