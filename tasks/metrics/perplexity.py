"""The exact negative log-likelihood of each row's labelled tokens under a model."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel

from tasks.data.segments import IGNORED_LABEL
from tasks.metrics.errors import MetricError
from tasks.models.loading import length_switch
from tasks.training.batch import TokenRow, collate

POSITIONS_PER_CHUNK = 512
"""Positions whose log-probabilities are held in float32 at once: 100 MB for a vocabulary of 50,000."""


@dataclass(frozen=True, slots=True)
class NegativeLogLikelihood:
    """Of one row: `nats` summed over its `tokens` predicted tokens."""

    nats: float
    tokens: int


def negative_log_likelihood(
    model: PreTrainedModel,
    rows: Sequence[TokenRow],
    pad_token_id: int,
    max_batch_tokens: int = 1024,
    on_measured: Callable[[int], None] = lambda _: None,
) -> list[NegativeLogLikelihood]:
    """Return the negative log-likelihood that `model` gives to the labelled tokens of each row, in the rows' order.

    A row without a labelled token has 0 nats over 0 tokens; perplexity is `formulas.perplexity` of the sums.
    `on_measured` is called after each batch with the number of rows done.

    `model` is a causal language model or a PeftModel over one; it is evaluated without dropout, and left in the mode it
    was in. Rows of similar length share a batch, padded on the right with `pad_token_id` to at most `max_batch_tokens`
    tokens (a longer row is a batch of its own). Logits are computed only at positions where a row of the batch has a
    label, in the model's dtype, and log-softmax in float32. The label of a row's first token is ignored.

    Raises MetricError if no token is labelled, if a row is longer than the model's context, or if a loss is not finite.
    """
    lengths = [len(row.input_ids) for row in rows]
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if context is not None and max(lengths, default=0) > context:
        raise MetricError(f"a row has {max(lengths)} tokens, but the model's context holds {context}; cut the rows")
    was_training = model.training
    model.eval()
    of_rows: dict[int, NegativeLogLikelihood] = {}
    try:
        with torch.inference_mode():
            for batch in _batches(lengths, max_batch_tokens, length_switch(model.config)):
                of_batch = _batch_loss(model, [rows[index] for index in batch], pad_token_id)
                of_rows.update(zip(batch, of_batch, strict=True))
                on_measured(len(of_rows))
    finally:
        model.train(was_training)
    if not any(row.tokens for row in of_rows.values()):
        raise MetricError("no row has a labelled token, so there is nothing to measure the model on")
    if not all(math.isfinite(row.nats) for row in of_rows.values()):
        raise MetricError("the model's losses are not finite; its weights are broken or its training diverged")
    return [of_rows[index] for index in range(len(rows))]


def _batches(lengths: list[int], max_batch_tokens: int, switch: int | None) -> Iterator[list[int]]:
    """Yield row indices in batches of similar length, the longest rows first: memory runs out at once or never.

    None has a row longer than `switch` and one that is not.
    """
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        switches = bool(batch) and switch is not None and lengths[index] <= switch < lengths[batch[0]]
        if batch and (switches or (len(batch) + 1) * lengths[batch[0]] > max_batch_tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _batch_loss(model: PreTrainedModel, rows: list[TokenRow], pad_token_id: int) -> list[NegativeLogLikelihood]:
    """Return the negative log-likelihood of each row of one batch."""
    batch = collate(rows, pad_token_id)
    predicting = (batch.targets != IGNORED_LABEL).any(dim=0).nonzero().squeeze(1)
    if len(predicting) == 0:
        return [NegativeLogLikelihood(0.0, 0)] * len(rows)
    logits = model(
        input_ids=batch.input_ids.to(model.device),
        attention_mask=batch.attention_mask.to(model.device),
        logits_to_keep=predicting.to(model.device),
        use_cache=False,
    ).logits
    targets = batch.targets[:, predicting].to(model.device)
    labelled = (targets != IGNORED_LABEL).nonzero()
    # In double precision, as a float32 sum over a long row loses digits; on the CPU, as MPS has no doubles.
    nats = torch.zeros(len(rows), dtype=torch.float64)
    for places in torch.split(labelled, POSITIONS_PER_CHUNK):
        at = places.unbind(dim=1)
        losses = torch.nn.functional.cross_entropy(logits[at].float(), targets[at], reduction="none")
        nats.index_add_(0, places[:, 0].cpu(), losses.cpu().double())
    tokens = torch.bincount(labelled[:, 0].cpu(), minlength=len(rows))
    return [NegativeLogLikelihood(*row) for row in zip(nats.tolist(), tokens.tolist(), strict=True)]
