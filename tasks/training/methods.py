"""The values of the recipe's `method`: what each makes of a base model to train, and what it keeps in the end."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import torch
from transformers import BitsAndBytesConfig, PreTrainedModel

from configs.recipe import Method, TrainingRecipe
from tasks.models.loading import attach_adapter, load_base_model
from tasks.training.adapter import TrainedModel, attach_lora, save_adapter
from tasks.training.errors import MethodUnavailable
from tasks.training.installed import require_bitsandbytes


class Origin(Protocol):
    """The model that training starts from: where its parts lie, and how it computes."""

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

    whole: bool
    """Whether it leaves a whole model; else an adapter on the weights that it started from."""

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Return the model with what trains in it marked `requires_grad`, in float32; it answers as `origin` does.

        Raises WeightsError (tasks.models.errors) or AdapterError.
        """
        ...

    def save(self, model: TrainedModel, folder: Path, origin: Origin) -> None:
        """Write what has been trained into `folder`, without a tokenizer; the model is of no use afterwards."""
        ...


class LowRank:
    """LoRA, and rsLoRA (Kalajdzievski 2023, arXiv:2312.03732) by the recipe: an adapter over frozen weights."""

    whole = False

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Attach a new adapter; one that is there already stays frozen below it."""
        return attach_lora(self._base(origin), recipe, parent=origin.adapter_folder)

    def save(self, model: TrainedModel, folder: Path, origin: Origin) -> None:
        """Write the adapter, with the one below it if there is one."""
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

    The change it makes is not of low rank, so that no server of adapters can apply it: it leaves a whole model.
    """

    whole = True

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Attach a new adapter to the weights with the one that is there folded in."""
        return attach_lora(folded(origin).to(origin.dtype), recipe)

    def save(self, model: TrainedModel, folder: Path, origin: Origin) -> None:
        """Write the weights with the adapter folded in, computed in float32 and rounded once."""
        model.float().merge_and_unload().to(origin.dtype).save_pretrained(folder)


class Full:
    """Every weight trains, in float32; forward and backward pass compute in the format that the model is served in."""

    whole = True

    def load(self, origin: Origin, recipe: TrainingRecipe) -> TrainedModel:
        """Load the weights, with the adapter that is there folded in."""
        return folded(origin).requires_grad_(True)

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


def folded(origin: Origin) -> PreTrainedModel:
    """Return the model's weights in float32, those of its adapter added to the base's."""
    model = load_base_model(origin.base_folder, torch.float32, origin.device)
    if origin.adapter_folder is None:
        return model
    merged: PreTrainedModel = attach_adapter(model, origin.adapter_folder).merge_and_unload()
    return merged
