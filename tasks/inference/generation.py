"""Generation requests: their parameters, and the running request, an iterator of tokens that any thread may cancel."""

import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from tasks.inference.listener import Listener
from tasks.inference.request import ModelRef, Request
from tasks.inference.sampling import SamplingParameters


@dataclass(frozen=True)
class TokenLogprobs:
    """A token's natural log-probability under the model, and those of the likeliest tokens by their id."""

    logprob: float
    top: dict[int, float]


class Constraint(Protocol):
    """Restricts the tokens of one answer (constrained decoding)."""

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next, as bools `[vocabulary]` on the CPU; at least one of them."""
        ...

    def accept(self, token_id: int) -> None:
        """Advance by the token that was sampled."""
        ...


MOST_LOGPROBS = 20


@dataclass(frozen=True)
class GenerationRequest:
    """Token ids to continue, and how. Without `seed` every answer is sampled from a fresh random state.

    The ids in `eos_token_ids` end the answer and are not part of it. With `logprobs` every token comes with its
    log-probability and those of that many likeliest tokens (0: only its own). A `constraint` holds state and
    serves one request.
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

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("prompt_ids is empty: a model needs at least one token to continue")
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {self.max_new_tokens}: it must be at least 1")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ValueError(f"seed is {self.seed}: it must be from 0 to {2**63 - 1}")
        if self.logprobs is not None and not 0 <= self.logprobs <= MOST_LOGPROBS:
            raise ValueError(f"logprobs is {self.logprobs}: it must be from 0 to {MOST_LOGPROBS}")
        _ = self.sampling  # its own checks name the field

    @property
    def sampling(self) -> SamplingParameters:
        """The part of the request that the sampler needs."""
        return SamplingParameters(self.temperature, self.top_p, self.top_k, self.repetition_penalty, self.min_p)


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
