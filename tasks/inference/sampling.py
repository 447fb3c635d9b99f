"""Sampling: logits in, one token id per row out, with the order and the meaning of transformers' processors."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SamplingParameters:
    """How the next token is drawn: `temperature` 0 is greedy; `top_k` 0, `top_p` 1, `repetition_penalty` 1 are off."""

    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise ValueError(f"temperature is {self.temperature}: it must be at least 0")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p}: it must be above 0 and at most 1")
        if self.top_k < 0:
            raise ValueError(f"top_k is {self.top_k}: it must be at least 0")
        if not 0 < self.repetition_penalty < float("inf"):
            raise ValueError(f"repetition_penalty is {self.repetition_penalty}: it must be above 0")


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that occurred less likely: positive logits are divided by `penalty`, negative ones multiplied.

    `logits` is float32 `[..., vocabulary]`, `seen` a bool mask of the same shape over prompt and generated tokens.
    Source: CTRL, https://arxiv.org/abs/1909.05858, section 4.1.
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Set all but the `top_k` largest logits of each row to minus infinity (ties with the last one stay)."""
    threshold = torch.topk(logits, min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < threshold, float("-inf"))


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Keep each row's smallest set of likeliest tokens whose probability reaches `top_p`; the rest is minus infinity.

    Source: nucleus sampling, https://arxiv.org/abs/1904.09751; summed from the least likely up, as transformers does.
    """
    ascending, order = torch.sort(logits, dim=-1)
    removed = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
    removed[..., -1] = False
    return logits.masked_fill(torch.zeros_like(removed).scatter(-1, order, removed), float("-inf"))


def process_logits(logits: Tensor, seen: Tensor | None, parameters: SamplingParameters) -> Tensor:
    """Apply penalty, temperature, top-k and top-p in transformers' order to float32 `[..., vocabulary]` logits.

    At temperature 0 only the penalty applies. `seen` may be None when the penalty is off.
    """
    if parameters.repetition_penalty != 1.0 and seen is not None:
        logits = penalize_repetition(logits, seen, parameters.repetition_penalty)
    if parameters.temperature == 0:
        return logits
    logits = logits / parameters.temperature
    if parameters.top_k:
        logits = keep_top_k(logits, parameters.top_k)
    if parameters.top_p < 1:
        logits = keep_top_p(logits, parameters.top_p)
    return logits


def draw(logits: Tensor, uniform: Tensor) -> Tensor:
    """Return one token id per row by inverting the distribution function at `uniform` (`[...]`, in 0 to 1).

    One uniform number a token makes a request's draws independent of the vocabulary, the device and its neighbours.
    """
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    point = uniform.to(cumulative).unsqueeze(-1) * cumulative[..., -1:]
    choice = torch.searchsorted(cumulative, point, right=True).squeeze(-1)
    # Rounding can push the point past the last likely token; the last token with any mass is the right answer.
    last = (cumulative < cumulative[..., -1:]).sum(dim=-1)
    return torch.minimum(choice, last)


def sample_token(
    logits: Tensor, seen: Tensor | None, parameters: SamplingParameters, generator: torch.Generator
) -> int:
    """Return the next token id for one sequence: float32 `[vocabulary]` logits, a CPU generator seeded by the request.

    Draws from the distribution of `process_logits`, but sorts only the top-k survivors: sorting the whole vocabulary
    takes longer than everything else here.
    """
    if parameters.temperature == 0:
        return int(process_logits(logits, seen, parameters).argmax())
    survivors = None
    if 0 < parameters.top_k < logits.shape[-1]:
        if parameters.repetition_penalty != 1.0 and seen is not None:
            logits = penalize_repetition(logits, seen, parameters.repetition_penalty)
        logits = logits / parameters.temperature
        threshold = torch.topk(logits, parameters.top_k).values[-1]
        survivors = (logits >= threshold).nonzero().squeeze(-1)
        logits = logits[survivors]
        logits = keep_top_p(logits, parameters.top_p) if parameters.top_p < 1 else logits
    else:
        logits = process_logits(logits, seen, parameters)
    choice = draw(logits, torch.rand((), generator=generator))
    return int(choice if survivors is None else survivors[choice])
