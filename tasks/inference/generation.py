"""Generation requests: their parameters, and the running request, an iterator of tokens that any thread may cancel."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from torch import Tensor

from tasks.inference.listener import Listener
from tasks.inference.request import ModelRef, Request
from tasks.inference.sampling import SamplingParameters


@dataclass(frozen=True)
class TokenLogprobs:
    """A token's natural log-probability under the model, its rank from 1, and those of the likeliest tokens by id."""

    logprob: float
    rank: int
    top: dict[int, float]


class Constraint(Protocol):
    """Restricts the tokens of one answer (constrained decoding)."""

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next, as bools `[vocabulary]` on the CPU; at least one of them.

        Raises `ConstraintFailed` if there is none.
        """
        ...

    def accept(self, token_id: int) -> None:
        """Advance by the token that was sampled; raises `ConstraintFailed`."""
        ...

    def finish(self) -> None:
        """Raise `ConstraintFailed` unless the answer may end here."""
        ...


MOST_LOGPROBS = 20
MOST_BIAS = 100


@dataclass(frozen=True)
class GenerationRequest:
    """Token ids to continue, and how. Without `seed` every answer is sampled from a fresh random state.

    The ids in `eos_token_ids` and `stop_token_ids` end the answer and are not part of it; with `ignore_eos` only the
    latter do. None of them comes before `min_new_tokens` others, unless a constraint leaves nothing else. What keeps to
    a constraint ends where that ends, whatever is ignored. `logit_bias` is added to the logits of these token ids.

    With `logprobs` every token comes with its log-probability and those of that many likeliest tokens (0: only its
    own); with `prompt_logprobs` so do those of the prompt but for the first, and the end token that ended the answer. A
    `constraint` holds state and serves one request.
    """

    model: ModelRef
    prompt_ids: list[int]
    max_new_tokens: int
    temperature: float = 0.7
    top_p: float = 0.9
    top_k: int = 50
    repetition_penalty: float = 1.0
    seed: int | None = None
    eos_token_ids: Collection[int] = frozenset()
    min_p: float = 0.0
    logprobs: int | None = None
    constraint: Constraint | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_new_tokens: int = 0
    stop_token_ids: Collection[int] = frozenset()
    ignore_eos: bool = False
    prompt_logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("prompt_ids is empty: a model needs at least one token to continue")
        if self.max_new_tokens < 0:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: it must be at least 0")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: it must be from 0 to {2**63 - 1}")
        for name in ("logprobs", "prompt_logprobs"):
            if (count := getattr(self, name)) is not None and not 0 <= count <= MOST_LOGPROBS:
                raise ValueError(f"{name} is {count}: it must be from 0 to {MOST_LOGPROBS}")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens is {self.min_new_tokens}: it must be from 0 to max_new_tokens, {self.max_new_tokens}"
            )
        for token_id, bias in self.logit_bias.items():
            if not -MOST_BIAS <= bias <= MOST_BIAS:
                raise ValueError(f"logit_bias of {token_id} is {bias}: it must be from {-MOST_BIAS} to {MOST_BIAS}")
        _ = self.sampling  # its own checks name the field

    @property
    def sampling(self) -> SamplingParameters:
        """The part of the request that the sampler needs."""
        return SamplingParameters(
            self.temperature,
            self.top_p,
            self.top_k,
            self.repetition_penalty,
            self.min_p,
            self.frequency_penalty,
            self.presence_penalty,
        )

    @cached_property
    def end_ids(self) -> frozenset[int]:
        """The ids that end the answer."""
        ignored = self.ignore_eos and self.constraint is None
        return frozenset(self.stop_token_ids) | (frozenset() if ignored else frozenset(self.eos_token_ids))


class Generation(Request):
    """A generation request in the engine, and its answer. Iterate it, wait for `result`, or cancel it."""

    def __init__(
        self,
        request: GenerationRequest,
        max_new_tokens: int,
        wake: Callable[[], None],
        listener: Listener | None,
        seconds: float,
    ) -> None:
        """`seconds` is the request's time limit, waiting included."""
        super().__init__(request.model, request.prompt_ids, max_new_tokens, wake, listener, seconds)
        self.request = request
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprobs] = []
        """One entry per token, if the request asked for them; appended before its token."""
        self.prompt_logprobs: list[TokenLogprobs] = []
        """One entry per prompt token after the first, if the request asked for them; there before the first token."""
        self.ended_by: tuple[int, TokenLogprobs | None] | None = None
        """The token that ended the answer, and its log-probabilities if they are asked for."""
        self.first_token_at: float | None = None
        """When the first token came, in seconds of `time.monotonic`."""

    def __iter__(self) -> Iterator[int]:
        """Yield token ids as they come; a failed request raises its error after the tokens it had."""
        position = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: len(self.tokens) > position or self.done)  # noqa: B023 - used at once
                if len(self.tokens) == position:
                    break
            yield self.tokens[position]
            position += 1
        if self.error is not None:
            raise self.error

    @property
    def delivered(self) -> int:
        """How many tokens have come so far."""
        return len(self.tokens)

    def result(self, timeout: float | None = None) -> list[int]:
        """Wait for the end and return all token ids; raises what `wait` raises."""
        self.wait(timeout)
        return list(self.tokens)

    def deliver(self, token_id: int, logprobs: TokenLogprobs | None = None) -> None:
        """Append one token; called by the engine."""
        with self._changed:
            if logprobs is not None:
                self.logprobs.append(logprobs)
            self.tokens.append(token_id)
            if self.first_token_at is None:
                self.first_token_at = time.monotonic()
            self._changed.notify_all()
        self._notify(token_id)
