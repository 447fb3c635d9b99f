"""The two ways to a micro-batch's loss: packed rows for the models that `packed` knows, padded ones for any other."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from tasks.training.adapter import TrainedModel, trainable_weights
from tasks.training.batch import BlankRow, MicroBatch, TokenRow, collate, longest_first
from tasks.training.estimate import PathName
from tasks.training.loss import summed_nll
from tasks.training.packed.batch import PackedBatch, pack
from tasks.training.packed.dropout import draw_seeds
from tasks.training.packed.llama import PackedLlama, is_supported
from tasks.training.packed.sharing import Threads, deal
from tasks.training.precision import base_dtype, forward_precision
from tasks.training.ranks import ALONE, Ranks
from tasks.training.rng import private_rng
from tasks.training.sharding import is_sharded


class Batch(Protocol):
    """Rows on their way through the model."""

    @property
    def labelled(self) -> int:
        """The number of tokens to predict."""
        ...

    @property
    def tokens(self) -> int:
        """The number of tokens read, padding not counted."""
        ...


B = TypeVar("B", bound=Batch)


class TrainingPath(Protocol[B]):
    """How rows become a loss with a gradient. All paths give the same numbers, but for rounding and dropout's draws."""

    name: str
    dtype: torch.dtype
    """Format of the products."""

    def batch(self, rows: Sequence[TokenRow]) -> B:
        """Return `rows` as one micro-batch on the model's device."""
        ...

    def summed_nll(self, batch: B) -> float:
        """Return the sum, in nats, of the negative log-likelihoods of the batch's labelled tokens, without dropout.

        The caller has put the model in the mode for evaluation.
        """
        ...

    def accumulate(self, batch: B, labelled: int) -> float:
        """Add the gradient of the batch's summed negative log-likelihoods over `labelled` to the weights'.

        Returns the sum itself. `labelled` is the number of labelled tokens of the whole optimizer step.
        """
        ...


class PaddedPath:
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
            # It makes embeddings want a gradient, which only the older kind of checkpoint needs.
            base.disable_input_require_grads()

    def batch(self, rows: Sequence[TokenRow]) -> MicroBatch:
        """Return `rows` padded to the longest of them."""
        return collate(rows, self._pad_token_id).to(self._model.get_input_embeddings().weight.device)

    def summed_nll(self, batch: MicroBatch) -> float:
        """Return the sum of the negative log-likelihoods."""
        with torch.no_grad():
            return summed_nll(self._model, batch, self.dtype).item()

    def accumulate(self, batch: MicroBatch, labelled: int) -> float:
        """Add the batch's part of the step's gradient to the weights'; return its sum."""
        nll = summed_nll(self._model, batch, self.dtype)
        torch.autograd.backward(nll / labelled)
        return nll.item()


@dataclass(frozen=True)
class SharedBatch:
    """A micro-batch whose rows are dealt to threads."""

    shares: list[PackedBatch]
    row_numbers: list[list[int]]
    """Of each share's rows, which rows of the micro-batch they are."""

    @property
    def labelled(self) -> int:
        """The number of tokens to predict."""
        return sum(share.labelled for share in self.shares)

    @property
    def tokens(self) -> int:
        """The number of tokens read."""
        return sum(share.tokens for share in self.shares)


class PackedPath:
    """Packed rows through our own forward and backward pass, each of a CPU's threads with rows of its own."""

    name = "packed"

    def __init__(self, model: PeftModel, *, recompute: bool = False) -> None:
        self._model = model
        self._packed = PackedLlama(model, recompute)
        self.dtype = base_dtype(model)
        self._device: torch.device = model.get_input_embeddings().weight.device
        self._threads = Threads(self._device)

    def batch(self, rows: Sequence[TokenRow]) -> SharedBatch:
        """Return `rows`, each thread's end to end."""
        dealt = deal([len(row.input_ids) for row in rows], self._threads.number)
        return SharedBatch([pack([rows[number] for number in share]).to(self._device) for share in dealt], dealt)

    def summed_nll(self, batch: SharedBatch) -> float:
        """Return the sum of the negative log-likelihoods."""

        def compute(share: PackedBatch) -> float:
            with torch.no_grad():  # which a thread says for itself
                return self._packed.summed_nll(share).item()

        return sum(self._threads.map(compute, batch.shares))

    def accumulate(self, batch: SharedBatch, labelled: int) -> float:
        """Add the batch's part of the step's gradient to the weights'; return its sum."""
        weights = list(trainable_weights(self._model).values())
        seeds = draw_seeds(sum(map(len, batch.row_numbers)))

        def compute(number: int) -> tuple[float, tuple[Tensor | None, ...]]:
            nll = self._packed.summed_nll(batch.shares[number], [seeds[row] for row in batch.row_numbers[number]])
            gradients = torch.autograd.grad(nll / labelled, weights, allow_unused=True)
            return nll.item(), gradients  # read last: on a GPU reading waits for all that was asked for

        computed = self._threads.map(compute, range(len(batch.shares)))
        for _, gradients in computed:  # always in the same order, so that their sum is the same to the bit
            for weight, gradient in zip(weights, gradients, strict=True):
                if gradient is not None:
                    # Of the weight's own layout, which the fused optimizer takes for granted.
                    weight.grad = gradient.contiguous() if weight.grad is None else weight.grad.add_(gradient)
        return sum(nll for nll, _ in computed)


def path_name(model: TrainedModel, begun: str | None = None, dtype: torch.dtype | None = None) -> PathName:
    """Return the path on which the run has `begun`; of a new one, the fast path where it computes what `model` does.

    `dtype` is the format of the products; none: the base weights'.
    """
    if is_sharded(model):
        return "padded"  # whose layers are modules that say when they are computed
    fast = isinstance(model, PeftModel) and is_supported(model) and dtype in (None, base_dtype(model))
    return "packed" if fast and begun != "padded" else "padded"


def choose_path(
    model: TrainedModel,
    pad_token_id: int,
    begun: str | None = None,
    dtype: torch.dtype | None = None,
    *,
    recompute: bool = False,
) -> TrainingPath[Any]:
    """Return the path of `path_name`; with `recompute` activations are computed again instead of being kept."""
    if path_name(model, begun, dtype) == "packed":
        assert isinstance(model, PeftModel)
        return PackedPath(model, recompute=recompute)
    return PaddedPath(model, pad_token_id, dtype, recompute=recompute)


def can_recompute(model: TrainedModel) -> bool:
    """Tell whether the model's layers can be computed again in the backward pass; transformers says it of each kind."""
    return bool(_network(model).supports_gradient_checkpointing)


def _network(model: TrainedModel) -> PreTrainedModel:
    """Return the model without its adapters' wrapper."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def micro_batches(
    path: TrainingPath[Any], model: TrainedModel, rows: Sequence[TokenRow], rows_at_once: int, ranks: Ranks
) -> list[Any]:
    """Return this rank's share of `rows` as micro-batches, the longest rows first.

    Ranks with a sharded model get equally many, as they compute each together: blank ones where they have no row left.
    """
    batches = [path.batch(part) for part in longest_first(ranks.share(rows), rows_at_once)]
    if is_sharded(model):
        most = -(-ranks.largest_share(rows) // rows_at_once)
        batches += [path.batch([BlankRow()]) for _ in range(most - len(batches))]
    return batches


def held_out_loss(
    path: TrainingPath[Any], model: TrainedModel, rows: Sequence[TokenRow], batch_size: int, ranks: Ranks = ALONE
) -> float:
    """Return the mean negative log-likelihood in nats per labelled token of `rows`, without dropout.

    Each of the `ranks` reads its share, `batch_size` rows at once, and has the loss of all. Leaves the model in the
    mode it was in and the random state as it was, so that evaluating more or less often does not change the training.
    """
    device = model.get_input_embeddings().weight.device
    was_training = model.training
    total, labelled = 0.0, 0.0
    window = 16 * batch_size * ranks.size  # enough rows to find some of like length, few enough to hold in memory
    model.eval()
    try:
        with private_rng(device):
            for start in range(0, len(rows), window):
                for batch in micro_batches(path, model, rows[start : start + window], batch_size, ranks):
                    total += path.summed_nll(batch)
                    labelled += batch.labelled
    finally:
        model.train(was_training)
    total, labelled = ranks.sum(total, labelled)
    return total / labelled
