"""Decoding: sequences with a cache of their own, advanced one after the other, a token each.

`decode_round` is the seam for batching: it may advance its sequences in one forward pass instead.
"""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from transformers import DynamicCache, PreTrainedModel

from tasks.inference.base import LoadedBase
from tasks.inference.errors import InferenceError
from tasks.inference.generation import FinishReason, Generation
from tasks.inference.sampling import sample_token

PREFILL_TOKENS = 512
"""A longer prompt is read in pieces of this size, so that it does not hold up the other sequences."""


Ended = Callable[["ActiveSequence", FinishReason | InferenceError], None]
logger = logging.getLogger(__name__)


class ActiveSequence:
    """One request on its way: its key-value cache, its random numbers, and the tokens not yet read by the model."""

    def __init__(self, generation: Generation, model: PreTrainedModel) -> None:
        request = generation.request
        self.generation = generation
        self.adapter: Path | None = request.model.adapter
        self._cache = DynamicCache(config=model.config)
        self._unread = list(request.prompt_ids)
        self._sampling = request.sampling
        # On the CPU whatever the device: the same seed draws the same numbers everywhere.
        self._generator = torch.Generator()
        if request.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(request.seed)
        self._seen: torch.Tensor | None = None
        if request.repetition_penalty != 1.0:
            self._seen = torch.zeros(model.config.get_text_config().vocab_size, dtype=torch.bool, device=model.device)
            self._seen[torch.tensor(request.prompt_ids)] = True

    def advance(self, model: PreTrainedModel) -> FinishReason | None:
        """Read the next piece of the prompt, or decode one token and deliver it; return why it ends, if it does."""
        piece, self._unread = self._unread[:PREFILL_TOKENS], self._unread[PREFILL_TOKENS:]
        output = model(
            input_ids=torch.tensor([piece], device=model.device),
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        )
        if self._unread:
            return None
        logits = output.logits[0, -1].float()
        token_id = sample_token(logits, self._seen, self._sampling, self._generator)
        if token_id in self.generation.request.eos_token_ids:
            return "stop"
        self._unread = [token_id]
        if self._seen is not None:
            self._seen[token_id] = True
        self.generation.deliver(token_id)
        return "length" if len(self.generation.tokens) >= self.generation.max_new_tokens else None


def decode_round(base: LoadedBase, sequences: Sequence[ActiveSequence], ended: Ended) -> None:
    """Advance every sequence that is not cancelled by one step, and call `ended` for each that is over.

    A failure ends its own sequence only. Sequences with the same adapter follow one another, those of the active one
    first: switching costs time.
    """
    adapters = list(dict.fromkeys([base.active, *(sequence.adapter for sequence in sequences)]))
    with torch.inference_mode():
        for sequence in sorted(sequences, key=lambda each: adapters.index(each.adapter)):
            if sequence.generation.cancelled:
                continue
            outcome: FinishReason | InferenceError | None
            try:
                base.activate(sequence.adapter)
                outcome = sequence.advance(base.model)
            except Exception as error:
                logger.exception("a sequence failed")
                outcome = InferenceError(f"the model failed while generating: {error}")
            if outcome is not None:
                ended(sequence, outcome)
