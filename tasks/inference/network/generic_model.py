"""Fallback for other architectures: transformers' model, one sequence after the other, adapters by peft."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tasks.inference.network.step import KVArena, LoadedAdapter, StepBatch
from tasks.models.loading import attach_adapter, length_switch, load_base_model


@dataclass
class _Text:
    """What has been read of one sequence."""

    cache: DynamicCache
    ids: list[Tensor] = field(default_factory=list)
    """The tokens, where they may have to be read again."""
    summed: Tensor | None = None
    """What `sum_states` has returned of it, in sum."""


class GenericModel:
    """A `Network` (see `step.py`) with transformers' own cache per sequence; the arena only counts tokens."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        """Load the base in `folder`; raises `WeightsError` if that fails."""
        self._model: PreTrainedModel = load_base_model(folder, dtype, device)
        self._vocabulary: int = self._model.config.get_text_config().vocab_size
        self.bytes = _weight_bytes(self._model)
        self._wrapped: PeftModel | None = None
        self._numbered = 0
        self._active: int | None = None
        self._texts: dict[int, _Text] = {}
        self._switch = length_switch(self._model.config)

    def allocate(self, capacity: int) -> KVArena:
        """Return an arena that holds nothing."""
        return KVArena(torch.empty(0, 0, capacity, 0), torch.empty(0, 0, capacity, 0))

    def release(self, cache_start: int) -> None:
        """Drop the cache of the sequence that begins there."""
        self._texts.pop(cache_start, None)

    def close(self) -> None:
        """Do nothing: there is nothing to release but memory."""

    def load_adapter(self, folder: Path) -> LoadedAdapter:
        """Attach the adapter in `folder`; raises `WeightsError` if that fails."""
        before, number = _weight_bytes(self._model), self._numbered
        self._active = None
        self._numbered += 1
        self._wrapped = attach_adapter(self._wrapped or self._model, folder, f"adapter_{number}")
        return LoadedAdapter(number, _weight_bytes(self._model) - before)

    def drop_adapter(self, number: int) -> None:
        """Detach an adapter and free its memory."""
        if self._wrapped is not None:
            self._wrapped.delete_adapter(f"adapter_{number}")
        self._active = None

    @torch.inference_mode()
    def step(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read each sequence's tokens; return float32 `[number of wants_logits, vocabulary]`."""
        del arena
        rows = []
        of_sequences = torch.split(batch.wants_logits, batch.first.diff().tolist())
        for (_, inputs), wanted in zip(self._inputs(batch), of_sequences, strict=True):
            # Counted from the end: a sequence may be read again from its beginning.
            from_end = wanted.nonzero().flatten() - len(wanted)
            kept = -int(from_end[0]) if len(from_end) else 1
            logits = self._model(**inputs, logits_to_keep=kept).logits[0]
            rows.append(logits[from_end.to(logits.device)].float())
        return torch.cat(rows)

    @torch.inference_mode()
    def sum_states(self, batch: StepBatch, arena: KVArena) -> Tensor:
        """Read each sequence's tokens; return float32 `[sequences, width]`: their states after the last norm."""
        del arena
        decoder = self._model.base_model
        sums = []
        for text, inputs in self._inputs(batch):
            before = text.summed
            state = decoder(**inputs).last_hidden_state[0].float().sum(0)
            # What was read again replaces what was returned of it.
            again = before is not None and inputs["input_ids"].shape[1] == text.cache.get_seq_length()
            text.summed = state if before is None or again else before + state
            sums.append(text.summed - before if before is not None else state)
        return torch.stack(sums)

    def _inputs(self, batch: StepBatch) -> Iterator[tuple[_Text, dict[str, Any]]]:
        """Yield one sequence after the other with the model's arguments, and its adapter activated."""
        ends = batch.first.tolist()
        for index, start in enumerate(batch.cache_start.tolist()):
            ids, cached = batch.token_ids[ends[index] : ends[index + 1]], int(batch.cached[index])
            if cached == 0:
                self._texts[start] = _Text(DynamicCache(config=self._model.config))
            text = self._texts[start]
            if self._switch is not None:
                text.ids.append(ids)
                if 0 < cached <= self._switch < cached + len(ids):
                    # All positions are rotated otherwise from here on: the keys in the cache are of no use.
                    ids, text.cache = torch.cat(text.ids), DynamicCache(config=self._model.config)
            self._activate(int(batch.adapter[index]))
            yield (
                text,
                {
                    "input_ids": ids[None].to(self._model.device),
                    "past_key_values": text.cache,
                    "use_cache": True,
                },
            )

    def _activate(self, number: int) -> None:
        if self._wrapped is None or number == self._active:
            return
        if number < 0:
            self._wrapped.base_model.disable_adapter_layers()
        else:
            self._wrapped.base_model.enable_adapter_layers()
            self._wrapped.set_adapter(f"adapter_{number}", inference_mode=True)
        self._active = number


def _weight_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of the model's parameters, tied ones counted once. (Buffers are not in the file: negligible.)"""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
