"""The number format a run computes in: how half-precision base layers meet float32 adapters."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from peft.helpers import disable_input_dtype_casting


def base_dtype(model: PeftModel) -> torch.dtype:
    """Return the format of the frozen base weights."""
    dtype: torch.dtype = model.get_input_embeddings().weight.dtype
    return dtype


@contextmanager
def forward_precision(model: PeftModel) -> Iterator[None]:
    """Compute a forward pass in the base weights' format, adapters included.

    Adapters are stored in float32. Left alone, peft widens the input of each adapted layer to float32, dropout and
    all; over a bfloat16 base autocast instead narrows the small adapter matrices, which costs far less. The context
    must end with the pass, because autocast keeps the narrowed copies until then.
    """
    dtype = base_dtype(model)
    if dtype == torch.float32:
        yield
        return
    device_type = model.get_input_embeddings().weight.device.type
    with torch.autocast(device_type, dtype=dtype), disable_input_dtype_casting(model):
        yield
