"""Running sequences: their ranges in the KV arena, the tokens still to read, and their sampling state."""

from collections.abc import Callable

import torch
from torch import Tensor

from tasks.inference.base import LoadedBase
from tasks.inference.embedding import Embedding
from tasks.inference.errors import InferenceError
from tasks.inference.generation import Generation, TokenLogprobs
from tasks.inference.request import FinishReason, Request
from tasks.inference.sampling import Row

NO_ADAPTER = -1


class ActiveSequence:
    """The part that generation and embedding share: a prompt is read chunk by chunk into the arena."""

    def __init__(self, request: Request, base: LoadedBase, start: int) -> None:
        self.request = request
        self.adapter = request.model.adapter
        self.start = start
        self.limit = len(request.prompt_ids) + request.max_new_tokens
        """The tokens that its range has room for at last."""
        self.swap_in: Callable[[int], None] | None = None
        """Copies its keys and values to the range that begins there; None while they are in the arena."""
        self.adapter_number = NO_ADAPTER if self.adapter is None else base.adapters[self.adapter].number
        self.cached = 0
        self._unread = list(request.prompt_ids)

    def next_length(self, chunk: int) -> int:
        """Return how many tokens it reads in its next step, `chunk` at most."""
        return min(len(self._unread), chunk)

    @property
    def prompt_read(self) -> bool:
        """Whether the whole prompt has been read."""
        return self.cached >= len(self.request.prompt_ids)

    def read(self, count: int) -> list[int]:
        """Take the next `count` unread tokens."""
        tokens, self._unread = self._unread[:count], self._unread[count:]
        self.cached += count
        return tokens


class GeneratingSequence(ActiveSequence):
    """A prompt and the answer that follows: with its random generator, its constraint and the tokens seen so far."""

    def __init__(self, generation: Generation, base: LoadedBase, start: int) -> None:
        super().__init__(generation, base, start)
        request = generation.request
        self.generation = generation
        self._sampling = request.sampling
        self._constraint = request.constraint
        self._vocabulary = base.vocabulary
        # On the CPU whatever the device: a seed gives the same random numbers everywhere.
        self._generator = torch.Generator()
        if request.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(request.seed)
        self._seen: Tensor | None = None
        if request.repetition_penalty != 1.0:
            self._seen = torch.zeros(base.vocabulary, dtype=torch.bool, device=base.device)
            self._seen[torch.tensor(request.prompt_ids)] = True

    def row(self) -> Row:
        """Return what its next token is sampled with."""
        drawn = self._sampling.temperature > 0
        # The type is named: while a model is loaded elsewhere, torch's default is that model's.
        uniform = float(torch.rand((), generator=self._generator, dtype=torch.float32)) if drawn else 0.0
        allowed = self._constraint.allowed(self._vocabulary) if self._constraint is not None else None
        return Row(self._sampling, uniform, self._seen, allowed)

    def take(self, token_id: int, logprobs: TokenLogprobs | None) -> FinishReason | None:
        """Deliver a sampled token and queue it for the next step; return the finish reason if the answer ends."""
        if token_id in self.generation.request.eos_token_ids:
            return "stop"
        if self._constraint is not None:
            self._constraint.accept(token_id)
        self._unread = [token_id]
        if self._seen is not None:
            self._seen[token_id] = True
        self.generation.deliver(token_id, logprobs)
        return "length" if len(self.generation.tokens) >= self.generation.max_new_tokens else None


class EmbeddedSequence(ActiveSequence):
    """A prompt whose last hidden states are averaged; nothing is generated."""

    def __init__(self, embedding: Embedding, base: LoadedBase, start: int) -> None:
        super().__init__(embedding, base, start)
        self._embedding = embedding
        self._sum: Tensor | None = None

    def add(self, states: Tensor) -> FinishReason | InferenceError | None:
        """Add the sum of the states (float32 `[width]`) of the tokens just read; return the outcome after the last."""
        self._sum = states if self._sum is None else self._sum + states
        if not self.prompt_read:
            return None
        mean = (self._sum / len(self.request.prompt_ids)).cpu()
        if not bool(mean.isfinite().all()):
            return InferenceError("the model's hidden states are not finite: its weights are broken")
        self._embedding.deliver(mean)
        return "stop"


def active_sequence(request: Request, base: LoadedBase, start: int) -> ActiveSequence:
    """Return the sequence of a request whose range of the arena begins at `start`."""
    if isinstance(request, Embedding):
        return EmbeddedSequence(request, base, start)
    if isinstance(request, Generation):
        return GeneratingSequence(request, base, start)
    raise TypeError(f"no sequence can be made of a {type(request).__name__}")
