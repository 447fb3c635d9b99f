"""Sampling of a whole batch at once: logits in, one token id a row out, in the order and meaning of transformers.

A row's result depends only on its own logits, parameters and uniform random number, bit for bit, whatever else the
batch holds: candidates are in the vocabulary's order, sums run from one end, and padding adds zeros at the end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SPARE = 16
"""Candidates beyond the largest `top_k`, so that logits equal to the last one are usually among them."""
MOST_PENALTY = 2
"""Of `frequency_penalty` and `presence_penalty`, and the least one negated, as in OpenAI's API."""


@dataclass(frozen=True)
class SamplingParameters:
    """How the next token is sampled: `temperature` 0 is greedy.

    `top_k` 0, `top_p` 1, `min_p` 0, `repetition_penalty` 1 and the other two penalties 0 are off. `min_p` keeps tokens
    of at least that share of the likeliest one's probability. `frequency_penalty` is taken off a token's logit for each
    time it was generated, `presence_penalty` once if it was at all; the prompt does not count.
    """

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.0
    min_p: float = 0.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}: it must be at least 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: it must be at least 0")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: it must be above 0")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p is {self.min_p}: it must be from 0 to 1")
        for name in ("frequency_penalty", "presence_penalty"):
            if not -MOST_PENALTY <= getattr(self, name) <= MOST_PENALTY:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be from {-MOST_PENALTY} to {MOST_PENALTY}")

    @property
    def counts_tokens(self) -> bool:
        """Whether it matters how often each token was generated."""
        return self.frequency_penalty != 0 or self.presence_penalty != 0


@dataclass(frozen=True)
class Bias:
    """What is added to the logits of some tokens: int64 `ids`, none of them twice, and float32 `values`."""

    ids: Tensor
    values: Tensor


@dataclass(frozen=True)
class Row:
    """What one row of logits is sampled with.

    `uniform` is a random number in [0, 1). `seen` is a bool mask `[vocabulary]` of the tokens of prompt and answer
    (needed with a repetition penalty only), `allowed` one of the tokens that may come at all (None: all). `counts` are
    float32 `[vocabulary]`: how often each token was generated (needed with the other two penalties).
    """

    parameters: SamplingParameters
    uniform: float = 0.0
    seen: Tensor | None = None
    allowed: Tensor | None = None
    bias: Bias | None = None
    counts: Tensor | None = None


def sample(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Return one token id per row of float32 `[rows, vocabulary]` logits."""
    logits = discouraged(penalized(biased(constrained(logits, rows), rows), rows), rows)
    chosen = logits.argmax(dim=-1)
    vocabulary = logits.shape[-1]
    sampled = [index for index, row in enumerate(rows) if row.parameters.temperature > 0]
    narrow = [index for index in sampled if 0 < rows[index].parameters.top_k < vocabulary]
    # A row without top-k needs the whole vocabulary: it must not make the others do so.
    for indices in (narrow, [index for index in sampled if index not in set(narrow)]):
        if indices:
            place = torch.tensor(indices, device=logits.device)
            chosen[place] = _sample_rows(logits[place], [rows[index] for index in indices])
    return chosen


def constrained(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Set the logits of tokens that a row does not allow to minus infinity."""
    indices = [index for index, row in enumerate(rows) if row.allowed is not None]
    if not indices:
        return logits
    place = torch.tensor(indices, device=logits.device)
    allowed = torch.stack([mask for index in indices if (mask := rows[index].allowed) is not None])
    return logits.index_copy(0, place, logits[place].masked_fill(~allowed.to(logits.device), float("-inf")))


def biased(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Add each row's bias to its logits."""
    found = [(index, row.bias) for index, row in enumerate(rows) if row.bias is not None]
    if not found:
        return logits
    place = torch.cat([torch.full_like(bias.ids, index) for index, bias in found])
    ids = torch.cat([bias.ids for _, bias in found])
    sums = logits[place, ids] + torch.cat([bias.values for _, bias in found])
    return logits.index_put((place, ids), sums)


def penalized(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Make tokens that occurred less likely: positive logits are divided by the penalty, negative ones multiplied.

    Source: CTRL, https://arxiv.org/abs/1909.05858, section 4.1.
    """
    indices = [i for i, row in enumerate(rows) if row.parameters.repetition_penalty != 1.0 and row.seen is not None]
    if not indices:
        return logits
    place = torch.tensor(indices, device=logits.device)
    seen = torch.stack([seen for index in indices if (seen := rows[index].seen) is not None])
    penalty = _column([rows[index].parameters.repetition_penalty for index in indices], logits)
    own = logits[place]
    return logits.index_copy(0, place, torch.where(seen, torch.where(own < 0, own * penalty, own / penalty), own))


def discouraged(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    """Lower the logits of generated tokens: by the frequency penalty for each time, and once by the presence penalty.

    Source: https://platform.openai.com/docs/guides/text-generation, "Frequency and presence penalties".
    """
    indices = [index for index, row in enumerate(rows) if row.parameters.counts_tokens and row.counts is not None]
    if not indices:
        return logits
    place = torch.tensor(indices, device=logits.device)
    counts = torch.stack([counts for index in indices if (counts := rows[index].counts) is not None])
    own = logits[place] - _column([rows[index].parameters.frequency_penalty for index in indices], logits) * counts
    presence = _column([rows[index].parameters.presence_penalty for index in indices], logits)
    return logits.index_copy(0, place, own - presence * (counts > 0))


def filtered(logits: Tensor, rows: Sequence[Row]) -> tuple[Tensor, Tensor | None]:
    """Apply temperature, top-k, top-p and min-p; excluded tokens get minus infinity. `temperature` is above 0.

    Returns the candidates' logits `[rows, width]` and their token ids in rising order (None: the whole vocabulary).
    """
    parameters = [row.parameters for row in rows]
    logits = logits / _column([each.temperature for each in parameters], logits)
    top_k = [each.top_k or logits.shape[-1] for each in parameters]
    candidates = None
    if min(top_k) < logits.shape[-1]:
        logits, candidates = _top(logits, top_k)
    if any(each.top_p < 1 for each in parameters):
        logits = _nucleus(logits, _column([each.top_p for each in parameters], logits))
    if any(each.min_p > 0 for each in parameters):
        least = logits.amax(-1, keepdim=True) + _column([each.min_p for each in parameters], logits).log()
        logits = logits.masked_fill(logits < least, float("-inf"))
    return logits, candidates


def inverse_transform(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return one column index per row by inverse transform sampling at `uniform` (`[rows, 1]`, in [0, 1)).

    One uniform number per token makes a request's samples independent of vocabulary size, device and batch.
    """
    cumulative = _masses(logits).cumsum(-1)
    point = uniform.to(cumulative) * cumulative[..., -1:]
    choice = torch.searchsorted(cumulative, point, right=True)
    # Rounding can push the point past the last likely token; the last token with any mass is the right answer.
    last = (cumulative < cumulative[..., -1:]).sum(-1, keepdim=True)
    return torch.minimum(choice, last).squeeze(-1)


def log_probabilities(logits: Tensor, chosen: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the chosen tokens' log-probabilities by the model's own distribution, and the `top` likeliest ones.

    That is before penalty, temperature and filters. Results: `[rows]`, `[rows]` ranks from 1 (equal ones share one),
    `[rows, top]` values, `[rows, top]` ids.
    """
    logs = logits.log_softmax(-1)
    values, ids = logs.topk(top, dim=-1)
    own = logs.gather(-1, chosen[:, None])
    return own.squeeze(-1), (logs > own).sum(-1) + 1, values, ids


def _sample_rows(logits: Tensor, rows: Sequence[Row]) -> Tensor:
    logits, candidates = filtered(logits, rows)
    uniform = torch.tensor([[row.uniform] for row in rows], dtype=torch.float64, device=logits.device)
    place = inverse_transform(logits, uniform)
    return place if candidates is None else candidates.gather(-1, place[:, None]).squeeze(-1)


def _top(logits: Tensor, top_k: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Return each row's `top_k` largest logits (ties with the last one stay) and their ids in rising order."""
    vocabulary = logits.shape[-1]
    last = torch.tensor([[min(k, vocabulary) - 1] for k in top_k], device=logits.device)
    width = min(max(top_k) + SPARE, vocabulary)
    while True:
        values, ids = logits.topk(width, dim=-1)
        threshold = values.gather(-1, last)
        if width == vocabulary or bool((values[:, -1:] < threshold).all()):
            break
        width = min(2 * width, vocabulary)
    values = values.masked_fill(values < threshold, float("-inf"))
    # Excluded tokens go last, so that the width, which the other rows of the batch also decide, changes nothing.
    order = ids.masked_fill(values == float("-inf"), vocabulary).argsort(dim=-1, stable=True)
    return values.gather(-1, order), ids.gather(-1, order)


def _nucleus(logits: Tensor, top_p: Tensor) -> Tensor:
    """Keep each row's smallest set of likeliest tokens whose probability reaches `top_p`.

    Source: nucleus sampling, https://arxiv.org/abs/1904.09751; summed from the least likely up, as transformers does.
    """
    ascending, order = torch.sort(logits, dim=-1, stable=True)
    cumulative = _masses(ascending).cumsum(-1)
    removed = cumulative <= (1 - top_p.double()) * cumulative[..., -1:]
    removed[..., -1] = False
    removed &= top_p < 1
    return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), float("-inf"))


def _masses(logits: Tensor) -> Tensor:
    """Return each token's probability up to a factor, in double precision."""
    return (logits - logits.amax(-1, keepdim=True)).double().exp()


def _column(values: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=like.device)[:, None]
