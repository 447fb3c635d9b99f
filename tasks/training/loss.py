"""The loss of padded rows by the model's own forward pass, with logits at the labelled tokens' positions only."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own documentation calls it F
from torch import Tensor, nn

from tasks.data.segments import IGNORED_LABEL
from tasks.training.adapter import TrainedModel
from tasks.training.batch import MicroBatch
from tasks.training.precision import base_dtype, forward_precision


@contextmanager
def _head_sees_only(model: TrainedModel, positions: Tensor) -> Iterator[None]:
    """Restrict the output head to the hidden states at `positions` (bool, shape (rows, width)).

    A vocabulary is far wider than a hidden state, so logits nobody reads are the largest waste of a step. A hook on
    the head keeps whatever a model does around it (scaling, soft-capping), and works for every architecture.
    """

    def select(_head: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0][positions],)

    hook = model.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def summed_nll(model: TrainedModel, batch: MicroBatch, dtype: torch.dtype | None = None) -> Tensor:
    """Return the sum, in nats and float32, of the batch's labelled tokens' weighted negative log-likelihoods.

    `batch` is on the model's device. Products are computed in `dtype` (none: the base weights'), the log-softmax in
    float32.
    """
    labelled = batch.targets != IGNORED_LABEL
    with _head_sees_only(model, labelled), forward_precision(model, dtype or base_dtype(model)):
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    if batch.weights is None:
        return F.cross_entropy(output.logits.float(), batch.targets[labelled], reduction="sum")
    nll = F.cross_entropy(output.logits.float(), batch.targets[labelled], reduction="none")
    return (nll * batch.weights[labelled]).sum()
