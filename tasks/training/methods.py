"""The training methods of a recipe: how each prepares a base model for training, and what it saves in the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from configs.recipe import Method, TrainingRecipe
from tasks.models.loading import attach_adapter, load_base_model
from tasks.training.adapter import TrainedModel, attach_lora, freeze_vision, save_adapter
from tasks.training.errors import MethodUnavailable
from tasks.training.installed import require_bitsandbytes


class Origin(Protocol):
    """The model that training starts from: its folders, its device and its format."""

    @property
    def base_folder(self) -> Path:
        """Folder of the weights."""
        ...

    @property
    def base_reference(self) -> str:
        """Name or path by which these weights are found again."""
        ...

    @property
    def adapter_folder(self) -> Path | None:
        """Folder of the adapter over them, if there is one."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """In what format."""
        ...


class TrainingMethod(Protocol):
    """One way to train: all of them go through the same loop."""

    full: bool
    """Whether it saves a full model; else an adapter on the weights that it started from."""

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Return the model; its trained weights are float32 and `requires_grad`. It begins as `origin`.

        Raises WeightsError (tasks.models.errors) or AdapterError.
        """
        ...

    def save(self, model: TrainedModel, folder: Path, origin: Origin) -> None:
        """Write the trained weights into `folder`, without a tokenizer; the model is unusable afterwards."""
        ...


class LowRank:
    """LoRA, and rsLoRA (Kalajdzievski 2023, arXiv:2312.03732) by the recipe: an adapter over frozen weights."""

    full = False

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Attach a new adapter; an existing one stays active and frozen."""
        return attach_lora(self._base(origin), recipe, parent=origin.adapter_folder)

    def save(self, model: TrainedModel, folder: Path, origin: Origin) -> None:
        """Write the adapter, combined with the frozen one if there is one."""
        save_adapter(model, folder, origin.base_reference)

    def _base(self, origin: Origin) -> PreTrainedModel:
        return load_base_model(origin.base_folder, origin.dtype, origin.device)


class QLoRA(LowRank):
    """QLoRA (Dettmers et al. 2023, arXiv:2305.14314): the frozen weights are in four bits while the adapter trains."""

    def _base(self, origin: Origin) -> PreTrainedModel:
        return load_base_model(
            origin.base_folder,
            origin.dtype,
            origin.device,
            # As in the paper: four-bit NormalFloat, its scales in eight bits, products in the model's own format.
            quantization=BitsAndBytesConfig(
                load_in_4bit=True,
                bnb_4bit_quant_type="nf4",
                bnb_4bit_use_double_quant=True,
                bnb_4bit_compute_dtype=origin.dtype,
            ),
        )


class DoRA:
    """DoRA (Liu et al. 2024, arXiv:2402.09353): low-rank updates of each output's direction, and its size apart.

    The change it makes is not of low rank, so it can't be served as a LoRA adapter: a full model is saved.
    """

    full = True

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Attach a new adapter to the weights, with an existing one merged in."""
        return attach_lora(merged(origin).to(origin.dtype), recipe)

    def save(self, model: TrainedModel, folder: Path, origin: Origin) -> None:
        """Write the weights with the adapter merged in, computed in float32 and rounded once."""
        model.float().merge_and_unload().to(origin.dtype).save_pretrained(folder)


class Full:
    """Every weight but a vision tower's trains, in float32; passes compute in the format it is served in."""

    full = True

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Load the weights, with an existing adapter merged in."""
        model = merged(origin).requires_grad_(True)
        freeze_vision(model)
        return model

    def save(self, model: TrainedModel, folder: Path, origin: Origin) -> None:
        """Write the weights in the format that they are served in."""
        model.to(origin.dtype).save_pretrained(folder)


METHODS: Mapping[Method, TrainingMethod] = {
    "lora": LowRank(),
    "rslora": LowRank(),
    "dora": DoRA(),
    "full": Full(),
    "qlora": QLoRA(),
}


def require_method(method: Method, device: torch.device) -> None:
    """Raise MethodUnavailable, saying what is missing, if this machine can't train by `method`."""
    if method != "qlora":
        return
    require_bitsandbytes()
    if device.type != "cuda":
        raise MethodUnavailable(
            f"method 'qlora' needs a CUDA GPU, and this machine computes on '{device.type}': "
            "train by lora, rslora, dora or full here"
        )


def merged(origin: Origin) -> PreTrainedModel:
    """Return the model in float32 with its adapter merged into the base."""
    model = load_base_model(origin.base_folder, torch.float32, origin.device)
    if origin.adapter_folder is None:
        return model
    with_adapter: PreTrainedModel = attach_adapter(model, origin.adapter_folder).merge_and_unload()
    return with_adapter
