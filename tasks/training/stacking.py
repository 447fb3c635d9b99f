"""Fine-tuning a fine-tuned model: a new adapter beside a frozen one, saved as one adapter on the base.

Two low-rank updates of the same layer add up to one of the summed rank: s₁B₁A₁ + s₂B₂A₂ = [s₁B₁ s₂B₂] [A₁; A₂].
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from transformers import PreTrainedModel

from tasks.models.loading import adapter_config

PARENT, TRAINED = "parent", "default"


def stack_on_parent(model: PreTrainedModel, config: LoraConfig, folder: Path) -> PeftModel:
    """Attach the adapter in `folder` frozen, and beside it a new one of `config`, which trains.

    Raises `WeightsError` (tasks.models.errors) if it has an option that would be lost when the two become one.
    """
    parent = adapter_config(folder)
    stacked = PeftModel.from_pretrained(
        model, str(folder), adapter_name=PARENT, config=parent, autocast_adapter_dtype=True
    )
    stacked.add_adapter(TRAINED, config, autocast_adapter_dtype=True)
    stacked.base_model.set_adapter([PARENT, TRAINED])
    for name, weight in stacked.named_parameters():
        weight.requires_grad_(f".{TRAINED}." in name)
    for layer in _lora_layers(stacked).values():
        if PARENT in layer.lora_dropout:
            # A frozen adapter must compute what it does at inference.
            layer.lora_dropout[PARENT] = nn.Identity()
    return stacked


def is_stacked(model: PeftModel) -> bool:
    """Return whether the model carries a frozen parent adapter."""
    return PARENT in model.peft_config


def stacked_adapter(model: PeftModel) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return configuration and tensors of one adapter, in peft's format, that acts as parent and trained together.

    Its scale is 1 in every layer (alpha equals the rank); the adapters' own scales are in its second factors.
    """
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for name, layer in _lora_layers(model).items():
        present = [adapter for adapter in (PARENT, TRAINED) if adapter in layer.lora_A]
        first = torch.cat([layer.lora_A[adapter].weight.float() for adapter in present], dim=0)
        second = torch.cat(
            [layer.lora_B[adapter].weight.float() * layer.scaling[adapter] for adapter in present], dim=1
        )
        tensors[f"{name}.lora_A.weight"] = first
        tensors[f"{name}.lora_B.weight"] = second
        ranks[name.removeprefix("base_model.model.")] = first.shape[0]
    (common, _), *_ = Counter(ranks.values()).most_common(1)
    others = {name: rank for name, rank in ranks.items() if rank != common}
    trained: LoraConfig = model.peft_config[TRAINED]
    config = trained.to_dict() | {
        "r": common,
        "lora_alpha": common,
        "use_rslora": False,
        "target_modules": _targets(model, ranks),
        "rank_pattern": others,
        "alpha_pattern": others,
    }
    return config, tensors


def _targets(model: PeftModel, layers: Iterable[str]) -> list[str]:
    """Return names that choose `layers`: both adapters' own, or those of the layers where a pattern has chosen."""
    configs: list[LoraConfig] = [model.peft_config[adapter] for adapter in (PARENT, TRAINED)]
    if any(
        isinstance(each.target_modules, str) or each.layers_to_transform or each.exclude_modules for each in configs
    ):
        return sorted(layers)
    return sorted({target for each in configs for target in each.target_modules})


def _lora_layers(model: PeftModel) -> dict[str, LoraLayer]:
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
