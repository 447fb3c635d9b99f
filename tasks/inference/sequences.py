"""Running sequences: their ranges in the KV arena, the tokens still to read, and their sampling state."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tasks.inference.base import LoadedBase
from tasks.inference.embedding import Embedding
from tasks.inference.errors import ConstraintFailed, InferenceError
from tasks.inference.generation import Generation, TokenLogprobs
from tasks.inference.request import FinishReason, Request
from tasks.inference.sampling import Bias, Row

NO_ADAPTER = -1


class ActiveSequence:
    """The part that generation and embedding share: a prompt is read chunk by chunk into the arena."""

    def __init__(self, request: Request, base: LoadedBase, start: int) -> None:
        self.request = request
        self.adapter = request.model.adapter
        self.start = start
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

    def logits_wanted(self, count: int) -> int:
        """Return after how many of the last `count` tokens read, counted from the last one, the logits are needed."""
        del count
        return 0


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
        self._counts: Tensor | None = None
        if self._sampling.counts_tokens:
            self._counts = torch.zeros(base.vocabulary, dtype=torch.float32, device=base.device)
        self._ends = [token_id for token_id in request.end_ids if token_id < base.vocabulary]
        without_end = dict(request.logit_bias) | dict.fromkeys(self._ends, float("-inf"))
        self._bias = _bias(request.logit_bias, base.device)
        self._bias_without_end = _bias(without_end, base.device) if request.min_new_tokens else None

    @property
    def scores_prompt(self) -> bool:
        """Whether the log-probabilities of the prompt's tokens are asked for, and not all known."""
        return self.generation.request.prompt_logprobs is not None and not self.generation.tokens

    @property
    def samples(self) -> bool:
        """Whether the next token is to be sampled."""
        return self.prompt_read and self.generation.max_new_tokens > 0

    def logits_wanted(self, count: int) -> int:
        """Return after how many of the last `count` tokens read, counted from the last one, the logits are needed."""
        return count if self.scores_prompt else int(self.samples)

    def row(self) -> Row:
        """Return what its next token is sampled with."""
        drawn = self._sampling.temperature > 0
        # The type is named: while a model is loaded elsewhere, torch's default is that model's.
        uniform = float(torch.rand((), generator=self._generator, dtype=torch.float32)) if drawn else 0.0
        allowed = self._constraint.allowed(self._vocabulary) if self._constraint is not None else None
        return Row(self._sampling, uniform, self._seen, allowed, self._bias_now(allowed), self._counts)

    def _bias_now(self, allowed: Tensor | None) -> Bias | None:
        """Return what is added to the next logits; ends are out until there are tokens enough."""
        request = self.generation.request
        if self._bias_without_end is None or len(self.generation.tokens) >= request.min_new_tokens:
            return self._bias
        if allowed is not None and int(allowed.sum()) <= int(allowed[self._ends].sum()):
            return self._bias  # what the constraint describes is complete
        return self._bias_without_end

    def take(self, token_id: int, logprobs: TokenLogprobs | None) -> FinishReason | InferenceError | None:
        """Deliver a sampled token and queue it for the next step; return the outcome if the answer ends."""
        try:
            self._constrain(token_id)
        except ConstraintFailed as error:
            return error
        if token_id in self.generation.request.end_ids:
            self.generation.ended_by = token_id, logprobs
            return "stop"
        self._unread = [token_id]
        if self._seen is not None:
            self._seen[token_id] = True
        if self._counts is not None:
            self._counts[token_id] += 1
        self.generation.deliver(token_id, logprobs)
        return "length" if len(self.generation.tokens) >= self.generation.max_new_tokens else None

    def _constrain(self, token_id: int) -> None:
        """Tell the constraint of a sampled token; raises `ConstraintFailed`."""
        request = self.generation.request
        if self._constraint is None:
            return
        if token_id not in request.end_ids:
            self._constraint.accept(token_id)
        elif token_id not in request.stop_token_ids:  # whoever names a stop token wants what came before it
            self._constraint.finish()


def _bias(values: Mapping[int, float], device: torch.device) -> Bias | None:
    if not values:
        return None
    ids = torch.tensor(list(values), dtype=torch.int64, device=device)
    return Bias(ids, torch.tensor(list(values.values()), dtype=torch.float32, device=device))


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
