"""Token steps: which sequences read how much, one pass of the network for all, one token for each that is ready."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.inference.base import LoadedBase
from tasks.inference.errors import InferenceError
from tasks.inference.generation import FinishReason, Generation, TokenLogprobs
from tasks.inference.network.step import StepBatch
from tasks.inference.sampling import Row, log_probabilities, sample

NO_ADAPTER = -1
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepSize:
    """How much of the prompts one step reads.

    A prompt is cut at multiples of `chunk`, whatever else runs, so that its numbers do not depend on the company. A
    step holds one token of every answer on its way and then chunks while the sum is at most `tokens` (one at least).
    """

    chunk: int
    tokens: int


CPU_STEP = StepSize(chunk=128, tokens=256)
GPU_STEP = StepSize(chunk=512, tokens=2048)


class ActiveSequence:
    """One request on its way: its range in the arena, its random numbers, and the tokens not yet read."""

    def __init__(self, generation: Generation, base: LoadedBase, start: int) -> None:
        request = generation.request
        self.generation = generation
        self.adapter = request.model.adapter
        self.start = start
        self.adapter_number = NO_ADAPTER if self.adapter is None else base.adapters[self.adapter].number
        self.cached = 0
        self._unread = list(request.prompt_ids)
        self._sampling = request.sampling
        self._constraint = request.constraint
        self._vocabulary = base.vocabulary
        # On the CPU whatever the device: the same seed draws the same numbers everywhere.
        self._generator = torch.Generator()
        if request.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(request.seed)
        self._seen: Tensor | None = None
        if request.repetition_penalty != 1.0:
            self._seen = torch.zeros(base.vocabulary, dtype=torch.bool, device=base.device)
            self._seen[torch.tensor(request.prompt_ids)] = True

    def next_length(self, size: StepSize) -> int:
        """Return how many tokens it reads in its next step; 1 is also a prompt's last token."""
        return min(len(self._unread), size.chunk)

    @property
    def answers(self) -> bool:
        """Whether the whole prompt has been read."""
        return self.cached >= len(self.generation.request.prompt_ids)

    def read(self, count: int) -> list[int]:
        """Take the next `count` unread tokens."""
        tokens, self._unread = self._unread[:count], self._unread[count:]
        self.cached += count
        return tokens

    def row(self) -> Row:
        """Return what its next token is sampled with."""
        uniform = 0.0 if self._sampling.temperature == 0 else float(torch.rand((), generator=self._generator))
        allowed = self._constraint.allowed(self._vocabulary) if self._constraint is not None else None
        return Row(self._sampling, uniform, self._seen, allowed)

    def take(self, token_id: int, logprobs: TokenLogprobs | None) -> FinishReason | None:
        """Deliver a sampled token and keep it for the next step; return why the answer ends, if it does."""
        if token_id in self.generation.request.eos_token_ids:
            return "stop"
        if self._constraint is not None:
            self._constraint.accept(token_id)
        self._unread = [token_id]
        if self._seen is not None:
            self._seen[token_id] = True
        self.generation.deliver(token_id, logprobs)
        return "length" if len(self.generation.tokens) >= self.generation.max_new_tokens else None


Ended = Callable[[ActiveSequence, FinishReason | InferenceError], None]


def schedule(sequences: Sequence[ActiveSequence], size: StepSize) -> list[tuple[ActiveSequence, int]]:
    """Return who reads how many tokens in the next step: every answer one, then prompts in order of admission."""
    chosen = [(sequence, 1) for sequence in sequences if sequence.answers]
    tokens, reading = len(chosen), 0
    for sequence in sequences:
        if sequence.answers:
            continue
        length = sequence.next_length(size)
        if reading and tokens + length > size.tokens:
            break
        chosen.append((sequence, length))
        tokens, reading = tokens + length, reading + 1
    # Neighbours with the same adapter share their products.
    return sorted(chosen, key=lambda pair: pair[0].adapter_number)


def decode_step(base: LoadedBase, sequences: Sequence[ActiveSequence], size: StepSize, ended: Ended) -> int:
    """Advance the sequences by one step and call `ended` for each that is over; a failure is every reader's end.

    Returns the number of tokens sampled.
    """
    pieces = schedule(sequences, size)
    try:
        with torch.inference_mode():
            batch = _read(pieces)
            logits = base.network.step(batch, base.arena)
            ready = [sequence for sequence, _ in pieces if sequence.answers]
            if not ready:
                return 0
            chosen = sample(logits, [sequence.row() for sequence in ready])
            logprobs = _logprobs(logits, chosen, ready)
            tokens = chosen.tolist()
    except Exception as error:
        logger.exception("a step failed")
        for sequence, _ in pieces:
            ended(sequence, InferenceError(f"the model failed while generating: {error}"))
        return 0
    for sequence, token_id, its in zip(ready, tokens, logprobs, strict=True):
        if (outcome := sequence.take(token_id, its)) is not None:
            ended(sequence, outcome)
    return len(ready)


def _read(pieces: Sequence[tuple[ActiveSequence, int]]) -> StepBatch:
    cached = [sequence.cached for sequence, _ in pieces]
    token_ids: list[int] = []
    positions: list[int] = []
    first = [0]
    for sequence, count in pieces:
        positions += range(sequence.cached, sequence.cached + count)
        token_ids += sequence.read(count)
        first.append(len(token_ids))
    return StepBatch(
        token_ids=torch.tensor(token_ids),
        positions=torch.tensor(positions),
        first=torch.tensor(first, dtype=torch.int32),
        cache_start=torch.tensor([sequence.start for sequence, _ in pieces]),
        cached=torch.tensor(cached, dtype=torch.int32),
        adapter=torch.tensor([sequence.adapter_number for sequence, _ in pieces], dtype=torch.int32),
        wants_logits=torch.tensor([sequence.answers for sequence, _ in pieces]),
    )


def _logprobs(logits: Tensor, chosen: Tensor, ready: Sequence[ActiveSequence]) -> list[TokenLogprobs | None]:
    """Return the log-probabilities of the rows whose requests ask for them."""
    asked = [sequence.generation.request.logprobs for sequence in ready]
    found: list[TokenLogprobs | None] = [None] * len(ready)
    rows = [row for row, count in enumerate(asked) if count is not None]
    if not rows:
        return found
    place = torch.tensor(rows, device=logits.device)
    most = max(count for count in asked if count is not None)
    own, values, ids = (each.tolist() for each in log_probabilities(logits[place], chosen[place], most))
    for row, logprob, top_values, top_ids in zip(rows, own, values, ids, strict=True):
        count = asked[row] or 0
        found[row] = TokenLogprobs(logprob, dict(zip(top_ids[:count], top_values[:count], strict=True)))
    return found
