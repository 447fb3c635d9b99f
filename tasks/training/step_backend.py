"""The two step backends: packed rows for the models that `packed` supports, padded ones for any other."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tasks.models.loading import length_switch
from tasks.training.adapter import TrainedModel, trainable_weights
from tasks.training.batch import BlankRow, MicroBatch, TokenRow, collate, longest_first
from tasks.training.estimate import BackendName
from tasks.training.loss import summed_nll
from tasks.training.packed.batch import PackedBatch, pack
from tasks.training.packed.dropout import random_seeds
from tasks.training.packed.llama import PackedLlama, is_supported
from tasks.training.packed.sharing import Threads, divide_rows
from tasks.training.precision import base_dtype, forward_precision
from tasks.training.ranks import SINGLE_RANK, Ranks
from tasks.training.rng import private_rng
from tasks.training.sharding import is_sharded


class Batch(Protocol):
    """A micro-batch."""

    @property
    def labelled(self) -> int:
        """The number of tokens to predict."""
        ...

    @property
    def weight(self) -> float:
        """What the tokens to predict count together in the loss: their number, where rows have no weights."""
        ...

    @property
    def tokens(self) -> int:
        """The number of tokens read, padding not counted."""
        ...


B = TypeVar("B", bound=Batch)


class StepBackend(Protocol[B]):
    """Computes loss and gradient of rows. All backends give the same numbers, but for rounding and dropout masks."""

    name: str
    dtype: torch.dtype
    """Format of the products."""

    def batch(self, rows: Sequence[TokenRow]) -> B:
        """Return `rows` as one micro-batch on the model's device."""
        ...

    def summed_nll(self, batch: B) -> float:
        """Return the sum, in nats, of the labelled tokens' weighted negative log-likelihoods, without dropout.

        The caller has put the model in the mode for evaluation.
        """
        ...

    def accumulate(self, batch: B, weight: float) -> float:
        """Add the gradient of the batch's summed negative log-likelihoods over `weight` to the weights'.

        Returns the sum itself. `weight` is what the labelled tokens of the whole optimizer step count together.
        """
        ...


class PaddedBackend:
    """transformers' and peft's own forward pass over padded rows: any model they know.

    With `recompute` a layer's activations are computed again in the backward pass (see `can_recompute`).
    """

    name = "padded"

    def __init__(
        self, model: TrainedModel, pad_token_id: int, dtype: torch.dtype | None = None, *, recompute: bool = False
    ) -> None:
        self._model = model
        self.dtype = dtype or base_dtype(model)
        self._pad_token_id = pad_token_id
        if recompute:
            base = _network(model)
            # A layer that is computed again must find the precision that it was computed in.
            options = {
                "use_reentrant": False,
                "context_fn": lambda: (nullcontext(), forward_precision(model, self.dtype)),
            }
            base.activation_checkpointing_enable(options)
            # The call made embeddings require a gradient, which only reentrant checkpointing needs.
            base.disable_input_require_grads()

    def batch(self, rows: Sequence[TokenRow]) -> MicroBatch:
        """Return `rows` padded to the longest of them."""
        return collate(rows, self._pad_token_id).to(self._model.get_input_embeddings().weight.device)

    def summed_nll(self, batch: MicroBatch) -> float:
        """Return the sum of the negative log-likelihoods."""
        with torch.no_grad():
            return summed_nll(self._model, batch, self.dtype).item()

    def accumulate(self, batch: MicroBatch, weight: float) -> float:
        """Add the batch's gradient to the weights'; return its summed loss."""
        nll = summed_nll(self._model, batch, self.dtype)
        torch.autograd.backward(nll / weight)
        return nll.item()


@dataclass(frozen=True)
class SharedBatch:
    """A micro-batch whose rows are divided among threads."""

    shares: list[PackedBatch]
    row_numbers: list[list[int]]
    """Of each share's rows, which rows of the micro-batch they are."""

    @property
    def labelled(self) -> int:
        """The number of tokens to predict."""
        return sum(share.labelled for share in self.shares)

    @property
    def weight(self) -> float:
        """What the tokens to predict count together."""
        return sum(share.weight for share in self.shares)

    @property
    def tokens(self) -> int:
        """The number of tokens read."""
        return sum(share.tokens for share in self.shares)


class PackedBackend:
    """Packed rows through our own forward and backward pass; on a CPU each thread computes rows of its own."""

    name = "packed"

    def __init__(self, model: PeftModel, *, recompute: bool = False) -> None:
        self._model = model
        self._packed = PackedLlama(model, recompute)
        self.dtype = base_dtype(model)
        self._device: torch.device = model.get_input_embeddings().weight.device
        self._threads = Threads(self._device)

    def batch(self, rows: Sequence[TokenRow]) -> SharedBatch:
        """Return `rows` divided among the threads, each thread's rows packed."""
        shares = divide_rows([len(row.input_ids) for row in rows], self._threads.number)
        return SharedBatch([pack([rows[number] for number in share]).to(self._device) for share in shares], shares)

    def summed_nll(self, batch: SharedBatch) -> float:
        """Return the sum of the negative log-likelihoods."""

        def compute(share: PackedBatch) -> float:
            with torch.no_grad():  # the setting is per thread
                return self._packed.summed_nll(share).item()

        return sum(self._threads.map(compute, batch.shares))

    def accumulate(self, batch: SharedBatch, weight: float) -> float:
        """Add the batch's gradient to the weights'; return its summed loss."""
        weights = list(trainable_weights(self._model).values())
        seeds = random_seeds(sum(map(len, batch.row_numbers)))

        def compute(number: int) -> tuple[float, tuple[Tensor | None, ...]]:
            nll = self._packed.summed_nll(batch.shares[number], [seeds[row] for row in batch.row_numbers[number]])
            gradients = torch.autograd.grad(nll / weight, weights, allow_unused=True)
            return nll.item(), gradients  # read last: on a GPU it waits for the kernels

        computed = self._threads.map(compute, range(len(batch.shares)))
        for _, gradients in computed:  # always in the same order, so that their sum is the same to the bit
            for trained, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    # Of the weight's own layout, which the fused optimizer takes for granted.
                    trained.grad = gradient.contiguous() if trained.grad is None else trained.grad.add_(gradient)
        return sum(nll for nll, _ in computed)


def backend_name(model: TrainedModel, begun: str | None = None, dtype: torch.dtype | None = None) -> BackendName:
    """Return the backend of a run: "packed" where that supports `model`, unless the run has `begun` with "padded".

    `dtype` is the format of the products; none: the base weights'.
    """
    if is_sharded(model):
        return "padded"  # FSDP gathers weights by hooks on the modules, which only this backend calls
    fast = isinstance(model, PeftModel) and is_supported(model) and dtype in (None, base_dtype(model))
    return "packed" if fast and begun != "padded" else "padded"


def choose_backend(
    model: TrainedModel,
    pad_token_id: int,
    begun: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    recompute: bool = False,
) -> StepBackend[Any]:
    """Return the backend of `backend_name`; with `recompute` activations are recomputed instead of kept."""
    if backend_name(model, begun, dtype) == "packed":
        assert isinstance(model, PeftModel)
        return PackedBackend(model, recompute=recompute)
    return PaddedBackend(model, pad_token_id, dtype, recompute=recompute)


def can_recompute(model: TrainedModel) -> bool:
    """Return whether the model supports activation checkpointing, as transformers declares it per architecture."""
    return bool(_network(model).supports_gradient_checkpointing)


def _network(model: TrainedModel) -> PreTrainedModel:
    """Return the model without its adapters' wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def micro_batches(
    backend: StepBackend[Any], model: TrainedModel, rows: Sequence[TokenRow], rows_at_once: int, ranks: Ranks
) -> list[Any]:
    """Return this rank's share of `rows` as micro-batches, the longest rows first.

    With a sharded model all ranks get equally many, as they compute each together: blank ones where rows run out.
    """
    switch = length_switch(model.config)
    batches = [backend.batch(part) for part in longest_first(ranks.share(rows), rows_at_once, switch)]
    if is_sharded(model):
        most = -(-ranks.largest_share(rows) // rows_at_once) + (switch is not None)
        batches += [backend.batch([BlankRow()]) for _ in range(most - len(batches))]
    return batches


def held_out_loss(
    backend: StepBackend[Any],
    model: TrainedModel,
    rows: Sequence[TokenRow],
    batch_size: int,
    ranks: Ranks = SINGLE_RANK,
) -> float:
    """Return the mean negative log-likelihood in nats per labelled token of `rows`, weighted, without dropout.

    Each of the `ranks` reads its share, `batch_size` rows at once, and has the loss of all. Leaves the model in the
    mode it was in and the random state as it was, so that evaluating more or less often does not change the training.
    """
    device = model.get_input_embeddings().weight.device
    was_training = model.training
    total, weight = 0.0, 0.0
    window = 16 * batch_size * ranks.size  # enough rows to find some of like length, few enough to hold in memory
    model.eval()
    try:
        with private_rng(device):
            for start in range(0, len(rows), window):
                for batch in micro_batches(backend, model, rows[start : start + window], batch_size, ranks):
                    total += backend.summed_nll(batch)
                    weight += batch.weight
    finally:
        model.train(was_training)
    total, weight = ranks.sum(total, weight)
    return total / weight
