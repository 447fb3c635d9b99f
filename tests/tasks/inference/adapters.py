"""LoRA adapters that change a tiny model's answers, made on the spot."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM


def save_adapter(base: Path, folder: Path, seed: int, rank: int = 4) -> Path:
    """Save an adapter of `base` with random A and B in `folder`."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules="all-linear",
        init_lora_weights=False,
        fan_in_fan_out=model.config.model_type == "gpt2",
    )
    adapted = get_peft_model(model, config)
    for name, weight in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(weight, std=0.2)
    adapted.save_pretrained(folder)
    return folder
