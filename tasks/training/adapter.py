"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv:2106.09685) on a causal language model: attach, name, save."""

import json
import re
import warnings
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import save
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from configs.recipe import TrainingRecipe
from tasks.training.errors import AdapterError
from tasks.training.rng import private_rng
from tasks.training.stacking import is_stacked, stack_on_parent, stacked_adapter

TrainedModel = PeftModel | PreTrainedModel
"""A model in training: adapters over a frozen base, or a full model."""

_EXPERTS = ".experts."
_OF_EXPERTS = ("gate_proj", "up_proj", "down_proj")
"""Names that peft takes for those of experts in a model that has any, though its dense layers have them too."""


def _linear_layers(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return every linear layer of the decoder by its full dotted name. GPT-2's Conv1D is a transposed Linear.

    That leaves out the head, and a vision tower.
    """
    prefix = _decoder_name(model)
    return {
        f"{prefix}.{name}": module
        for name, module in model.get_decoder().named_modules()
        if isinstance(module, nn.Linear | Conv1D)
    }


def _decoder_name(model: PreTrainedModel) -> str:
    names: dict[int, str] = {id(module): name for name, module in model.named_modules()}
    return names[id(model.get_decoder())]


def default_target_modules(model: PreTrainedModel) -> list[str]:
    """Return the last names of every linear layer but the head, sorted: `q_proj`, `c_attn`, and so on."""
    return sorted({_last(name) for name in _linear_layers(model)})


def _last(name: str) -> str:
    return name.rpartition(".")[2]


def _matches(layer: str, target: str) -> bool:
    """Return whether `target` is the layer's name or a dotted end of it, which is peft's rule."""
    return layer == target or layer.endswith(f".{target}")


def _chosen_layers(model: PreTrainedModel, targets: list[str]) -> list[nn.Module]:
    """Return the layers named by `targets`. Raises AdapterError naming those that name none."""
    layers = _linear_layers(model)
    unknown = sorted({target for target in targets if not any(_matches(layer, target) for layer in layers)})
    if unknown:
        accepted = ", ".join(default_target_modules(model))
        raise AdapterError(f"target_modules not in this model: {', '.join(unknown)}; it has: {accepted}")
    return [module for name, module in layers.items() if any(_matches(name, target) for target in targets)]


def freeze_vision(model: PreTrainedModel) -> None:
    """Leave everything that trains of `model` so but what lies outside of its decoder and head: a vision tower."""
    language = {
        id(weight) for part in (model.get_decoder(), model.get_output_embeddings()) for weight in part.parameters()
    }
    for weight in model.parameters():
        if id(weight) not in language:
            weight.requires_grad_(False)


def has_vision(model: nn.Module) -> bool:
    """Return whether the model sees images too, by parts that stay as they are."""
    return getattr(model.config, "vision_config", None) is not None


def attach_lora(model: PreTrainedModel, recipe: TrainingRecipe, parent: Path | None = None) -> PeftModel:
    """Freeze `model` and add the recipe's adapters: float32 whatever the base's format, initialised from `recipe.seed`.

    The new adapter changes nothing until trained, as its second factor starts at zero. `parent` is the folder of an
    adapter to continue from: it stays active and frozen. Raises AdapterError when a name in
    `recipe.target_modules` is no linear layer of the model's body, or one that peft can't adapt.
    """
    targets = recipe.target_modules or default_target_modules(model)
    chosen = _chosen_layers(model, targets)
    if not chosen:
        raise AdapterError(f"{type(model).__name__} has no linear layer to adapt")
    if _has_experts(model) and (taken := sorted({target for target in targets if _last(target) in _OF_EXPERTS})):
        raise AdapterError(
            f"target_modules has {', '.join(taken)}, which peft takes for experts, that can't be adapted: this model "
            f"has experts in some layers and none in others; name others of {', '.join(default_target_modules(model))}"
        )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=recipe.lora_r,
        lora_alpha=recipe.lora_alpha,
        lora_dropout=recipe.lora_dropout,
        use_rslora=recipe.method == "rslora",
        use_dora=recipe.method == "dora",
        target_modules=list(targets),
        # By the targets' names alone peft would find a vision tower's layers too.
        exclude_modules=rf"(?!{re.escape(_decoder_name(model))}\.).*" if has_vision(model) else None,
        fan_in_fan_out=all(isinstance(module, Conv1D) for module in chosen),  # Conv1D stores its weight transposed
        bias="none",
    )
    # Initialised by the CPU's generator and moved, the adapter is the same on every device.
    device = model.get_input_embeddings().weight.device
    with private_rng(device, recipe.seed), warnings.catch_warnings():
        # peft still asks under a name that transformers has renamed; nobody who runs a job can do anything about it.
        warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing", category=FutureWarning)
        if parent is None:
            return get_peft_model(model, config, autocast_adapter_dtype=True)
        return stack_on_parent(model, config, parent)


def leaves_out_experts(model: nn.Module) -> bool:
    """Return whether the model is a mixture of experts that stay as they are: no adapter reaches them."""
    return _has_experts(model) and not any(
        weight.requires_grad for name, weight in model.named_parameters() if _EXPERTS in name
    )


def _has_experts(model: nn.Module) -> bool:
    return any(_EXPERTS in name for name, _ in model.named_parameters())


def adapted_layers(model: nn.Module) -> tuple[tuple[int, int], ...] | None:
    """Return inputs and outputs of every layer that has an adapter which trains; None if none has."""
    found = [
        (module.in_features, module.out_features)
        for module in model.modules()
        if isinstance(module, LoraLayer) and "default" in module.lora_A
    ]
    return tuple(found) or None


def trainable_weights(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train by name, in the model's order: the adapter's, or all of them."""
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def save_adapter(model: PeftModel, folder: Path, base_reference: str) -> Path:
    """Write the adapter in peft's format and return `folder`: the same weights give the same bytes.

    `base_reference` is what `base_model_name_or_path` says: the name or path the base model is found by. peft's own
    `save_pretrained` lists `target_modules` in the order of a set, which differs between processes.
    """
    settings, weights = stacked_adapter(model) if is_stacked(model) else _single_adapter(model)
    settings |= {"base_model_name_or_path": base_reference, "inference_mode": True}
    settings = {name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()}
    tensors = {name: weight.detach().to("cpu", torch.float32).contiguous() for name, weight in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    (folder / "adapter_model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    return folder


def _single_adapter(model: PeftModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return model.peft_config["default"].to_dict(), get_peft_model_state_dict(model, save_embedding_layers=False)
