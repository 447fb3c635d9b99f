"""A PEFT adapter's folder as it lies on disk: whether what it asks for is applied here, and which base it belongs to.

Imports no tensors: the API asks before it takes an adapter that somebody has put among the models.
"""

import json
from pathlib import Path
from typing import Any

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
APPLIED = frozenset(
    [
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "exclude_modules",
        "fan_in_fan_out",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "peft_type",
        "peft_version",
        "r",
        "rank_pattern",
        "revision",
        "target_modules",
        "task_type",
        "use_dora",
        "use_rslora",
    ]
)
"""Options of an adapter that are applied, looked at by themselves, or say nothing of what it computes."""
DEFAULTS: dict[str, Any] = {"megatron_core": "megatron.core", "qalora_group_size": 16}
"""Of the other options those that peft sets to something though nobody has asked for it."""


def is_adapter(folder: Path) -> bool:
    """Return whether `folder` holds an adapter and no model beside it."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def not_applied(fields: dict[str, Any]) -> list[str]:
    """Return the options of an adapter_config.json that are set and not applied, in the order of their names."""
    return sorted(
        name for name, value in fields.items() if name not in APPLIED and value and value != DEFAULTS.get(name)
    )


def adapter_defect(folder: Path) -> str | None:
    """Return why the adapter in `folder` can't be used, in a sentence without its full stop; None if nothing is seen.

    An option that nothing here applies is one: such an adapter would answer, and not as it was trained to.
    """
    fields = _fields(folder)
    if fields is None:
        return f"{folder / CONFIG} is not a JSON object: download the adapter again"
    if (kind := fields.get("peft_type")) != "LORA":
        return f"the adapter in {folder} is of type {kind}: only LORA adapters are served"
    if fields.get("use_dora"):
        return f"the adapter in {folder} is of the DoRA kind: only plain LoRA adapters are served"
    if unknown := not_applied(fields):
        return f"the adapter in {folder} has {', '.join(unknown)}, which is not served: train it without"
    weights = fields.get("init_lora_weights", True)
    if fields.get("bias", "none") != "none" or not (isinstance(weights, bool) or weights == "gaussian"):
        return f"the adapter in {folder} changes the base model's own weights: it can't share them"
    return None if (folder / WEIGHTS).is_file() else f"no safetensors weights in {folder}: {WEIGHTS} is missing"


def base_of(folder: Path) -> str | None:
    """Return the name or path of the base that the adapter in `folder` says it belongs to; None if it says none."""
    named = (_fields(folder) or {}).get("base_model_name_or_path")
    return named if isinstance(named, str) and named else None


def _fields(folder: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
