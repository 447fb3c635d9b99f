"""One base model in memory and the adapters attached to it, of which at most one is active at a time."""

from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tasks.inference.loading import attach_adapter, load_base_model


@dataclass
class AttachedAdapter:
    """An adapter in memory: its name inside peft (never used twice), its bytes, when it was last decoded with."""

    name: str
    bytes: int
    last_used: float


class LoadedBase:
    """A base model shared by all its adapters. Not thread-safe: only its decode thread computes with it."""

    def __init__(self, folder: Path, dtype: torch.dtype, device: torch.device) -> None:
        """Load the model in `folder`; raises `WeightsError` if that fails."""
        self.model: PreTrainedModel = load_base_model(folder, dtype, device)
        self.bytes = _weight_bytes(self.model)
        self.adapters: dict[Path, AttachedAdapter] = {}
        self._wrapped: PeftModel | None = None
        self._named = 0
        self._active: Path | None = None
        self._known = True  # whether `_active` is what peft has switched on

    @property
    def total_bytes(self) -> int:
        """Bytes of the base and all its adapters."""
        return self.bytes + sum(adapter.bytes for adapter in list(self.adapters.values()))

    @property
    def active(self) -> Path | None:
        """The adapter that the next forward pass uses; None is the plain base."""
        return self._active

    def load_adapter(self, folder: Path) -> AttachedAdapter:
        """Attach the adapter in `folder`, not yet listed in `adapters`; raises `WeightsError` if that fails."""
        self._named += 1
        name = f"adapter_{self._named}"
        before = _weight_bytes(self.model)
        self._known = False
        self._wrapped = attach_adapter(self._wrapped or self.model, folder, name)
        return AttachedAdapter(name, _weight_bytes(self.model) - before, 0.0)

    def drop_adapter(self, folder: Path) -> None:
        """Detach an adapter and free its memory."""
        adapter = self.adapters.pop(folder)
        if self._wrapped is not None:
            self._wrapped.delete_adapter(adapter.name)
        self._known = False

    def activate(self, folder: Path | None) -> None:
        """Make the next forward pass use the adapter from `folder`, or none; costs nothing when nothing changes."""
        if self._known and folder == self._active:
            return
        if self._wrapped is not None:
            if folder is None:
                self._wrapped.base_model.disable_adapter_layers()
            else:
                self._wrapped.base_model.enable_adapter_layers()
                self._wrapped.set_adapter(self.adapters[folder].name, inference_mode=True)
        self._active, self._known = folder, True


def _weight_bytes(model: torch.nn.Module) -> int:
    """Return the bytes of the model's parameters, tied ones counted once. (Buffers are not in the file: negligible.)"""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())
