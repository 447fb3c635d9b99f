"""Which implementation computes a base, and how much memory its parts take before they are loaded."""

from pathlib import Path

import torch
from transformers import PretrainedConfig

from tasks.inference.loading import adapter_files, load_config, weight_bytes
from tasks.inference.network.adapter_weights import adapter_bytes
from tasks.inference.network.any_model import AnyModel
from tasks.inference.network.decoder import Decoder
from tasks.inference.network.shape import shape_of
from tasks.inference.network.step import Network


def load_network(folder: Path, dtype: torch.dtype, device: torch.device) -> Network:
    """Load the base in `folder`; raises `WeightsError` if that fails."""
    shape = shape_of(load_config(folder))
    return Decoder(folder, shape, dtype, device) if shape is not None else AnyModel(folder, dtype, device)


def cache_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one token's keys and values in all layers (for a foreign architecture an estimate)."""
    if (shape := shape_of(config)) is not None:
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize
    text = config.get_text_config()
    layers, width = getattr(text, "num_hidden_layers", 1), getattr(text, "hidden_size", 1)
    heads = getattr(text, "num_attention_heads", None) or 1
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return 2 * layers * kv_heads * (getattr(text, "head_dim", None) or max(1, width // heads)) * dtype.itemsize


def needed_for_adapter(base: Path, adapter: Path, dtype: torch.dtype) -> int:
    """Return the bytes that the adapter will take in memory; raises `WeightsError` if there is none."""
    shape = shape_of(load_config(base))
    return weight_bytes(adapter_files(adapter), dtype) if shape is None else adapter_bytes(adapter, shape, dtype)
