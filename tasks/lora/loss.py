"""The training loss: negative log-likelihood of the labelled tokens, with logits at their positions only."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own documentation calls it F
from peft import PeftModel
from torch import Tensor, nn

from tasks.lora.batch import IGNORED, MicroBatch, TokenRow, micro_batches
from tasks.lora.precision import forward_precision
from tasks.lora.rng import private_rng


@contextmanager
def _head_sees_only(model: PeftModel, positions: Tensor) -> Iterator[None]:
    """Let the output head see the hidden states at `positions` (bool, shape (rows, width)) alone.

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


def summed_nll(model: PeftModel, batch: MicroBatch) -> Tensor:
    """Return the sum, in nats and float32, of the negative log-likelihoods of the batch's labelled tokens.

    `batch` is on the model's device. The log-softmax is in float32 whatever the base weights' format.
    """
    labelled = batch.targets != IGNORED
    with _head_sees_only(model, labelled), forward_precision(model):
        output = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return F.cross_entropy(output.logits.float(), batch.targets[labelled], reduction="sum")


def held_out_loss(model: PeftModel, rows: Sequence[TokenRow], batch_size: int, pad_token_id: int) -> float:
    """Return the mean negative log-likelihood in nats per labelled token of `rows`, without dropout.

    Leaves the model in the mode it was in and the random state as it was, so that evaluating more or less often
    does not change the training.
    """
    device = model.get_input_embeddings().weight.device
    was_training = model.training
    total, labelled = 0.0, 0
    window = 16 * batch_size  # enough rows to find some of like length, few enough to hold in memory
    model.eval()
    try:
        with torch.no_grad(), private_rng(device):
            for start in range(0, len(rows), window):
                for batch in micro_batches(rows[start : start + window], batch_size, pad_token_id):
                    total += summed_nll(model, batch.to(device)).item()
                    labelled += batch.labelled
    finally:
        model.train(was_training)
    return total / labelled
