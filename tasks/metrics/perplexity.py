"""Perplexity of a model on labelled rows, from the exact negative log-likelihood of the labelled tokens."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from transformers import PreTrainedModel

from tasks.data.template import IGNORED_LABEL
from tasks.metrics.hub_free import MetricError

POSITIONS_PER_CHUNK = 512
"""Positions whose log-probabilities are held in float32 at once: 100 MB for a vocabulary of 50,000."""


class LabelledRow(Protocol):
    """Token ids and labels, of the same length and not shifted against each other."""

    @property
    def input_ids(self) -> list[int]:
        """Token ids of the row, without padding."""
        ...

    @property
    def labels(self) -> list[int]:
        """Ids to predict, or IGNORED_LABEL."""
        ...


@dataclass(frozen=True, slots=True)
class NegativeLogLikelihood:
    """Summed over `tokens` predicted tokens, in nats."""

    total: float
    tokens: int


def negative_log_likelihood(
    model: PreTrainedModel, rows: Sequence[LabelledRow], pad_token_id: int, max_batch_tokens: int = 1024
) -> NegativeLogLikelihood:
    """Return the negative log-likelihood that `model` gives to the labelled tokens of `rows`.

    `model` is a causal language model or a PeftModel over one; it is evaluated without dropout, and left in the mode it
    was in. Rows of similar length share a batch, padded on the right with `pad_token_id` to at most `max_batch_tokens`
    tokens (a longer row goes alone). Logits are computed only at positions where some row of the batch has a label, in
    the model's dtype, and log-softmax in float32. The first token of a row is never predicted, so its label is ignored.

    Raises MetricError if no token is labelled, if a row is longer than the model's context, or if a loss is not finite.
    """
    lengths = [len(row.input_ids) for row in rows]
    context = getattr(model.config, "max_position_embeddings", None)
    if context is not None and max(lengths, default=0) > context:
        raise MetricError(f"a row has {max(lengths)} tokens, but the model's context holds {context}; cut the rows")
    was_training = model.training
    model.eval()
    total, tokens = 0.0, 0
    try:
        with torch.inference_mode():
            for batch in _batches(lengths, max_batch_tokens):
                batch_total, batch_tokens = _batch_loss(model, [rows[index] for index in batch], pad_token_id)
                total += batch_total
                tokens += batch_tokens
    finally:
        model.train(was_training)
    if tokens == 0:
        raise MetricError("no row has a labelled token, so there is nothing to measure the model on")
    if not math.isfinite(total):
        raise MetricError("the model's losses are not finite; its weights are broken or its training diverged")
    return NegativeLogLikelihood(total, tokens)


def perplexity(nll: NegativeLogLikelihood) -> float:
    """Return exp(total ÷ tokens), at least 1. Raises MetricError if a float cannot hold it."""
    try:
        return math.exp(nll.total / nll.tokens)
    except OverflowError as error:
        raise MetricError(
            f"the mean loss is {nll.total / nll.tokens:.1f} nats a token, whose exponential is beyond any float; "
            "training diverged"
        ) from error


def _batches(lengths: list[int], max_batch_tokens: int) -> Iterator[list[int]]:
    """Yield row indices in batches of similar length, the longest rows first: memory runs out at once or never."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        if batch and (len(batch) + 1) * lengths[batch[0]] > max_batch_tokens:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _batch_loss(model: PreTrainedModel, rows: list[LabelledRow], pad_token_id: int) -> tuple[float, int]:
    """Return (nats, tokens) of one batch, whose first row is its longest."""
    longest = len(rows[0].input_ids)
    input_ids = torch.full((len(rows), longest), pad_token_id)
    attention_mask = torch.zeros_like(input_ids)
    labels = torch.full_like(input_ids, IGNORED_LABEL)
    for place, row in enumerate(rows):
        length = len(row.input_ids)
        input_ids[place, :length] = torch.tensor(row.input_ids)
        attention_mask[place, :length] = 1
        labels[place, :length] = torch.tensor(row.labels)
    targets = labels[:, 1:]
    predicting = (targets != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)
    if len(predicting) == 0:
        return 0.0, 0
    logits = model(
        input_ids=input_ids.to(model.device),
        attention_mask=attention_mask.to(model.device),
        logits_to_keep=predicting.to(model.device),
        use_cache=False,
    ).logits
    targets = targets[:, predicting].to(model.device)
    labelled = (targets != IGNORED_LABEL).nonzero()
    total = 0.0
    for places in torch.split(labelled, POSITIONS_PER_CHUNK):
        at = places.unbind(dim=1)
        losses = torch.nn.functional.cross_entropy(logits[at].float(), targets[at], reduction="none")
        # In double precision, as a float32 sum over a long data set loses digits; on the CPU, as MPS has no doubles.
        total += losses.cpu().double().sum().item()
    return total, len(labelled)
