"""Which implementation computes a base, and how much memory its parts take before they are loaded."""

from pathlib import Path

import torch
from transformers import PretrainedConfig

from tasks.inference.cpu.adapters import bytes_of_adapter
from tasks.inference.cpu.decoder import CpuDecoder, bytes_of, computes
from tasks.inference.network.adapter_weights import adapter_bytes
from tasks.inference.network.decoder import Decoder
from tasks.inference.network.generic_model import GenericModel
from tasks.inference.network.shape import Shape, shape_of
from tasks.inference.network.step import Network
from tasks.models.loading import adapter_files, load_config, model_files, weight_bytes


def load_network(folder: Path, dtype: torch.dtype, device: torch.device, *, int8: bool = False) -> Network:
    """Load the base in `folder`, with `int8` weights where that is implemented; raises `WeightsError` if that fails."""
    shape = shape_of(load_config(folder))
    if shape is None:
        return GenericModel(folder, dtype, device)
    if _is_compiled(shape, dtype, device, int8=int8):
        return CpuDecoder(folder, shape, dtype, torch.get_num_threads(), int8)
    return Decoder(folder, shape, dtype, device)


def needed_for_base(folder: Path, dtype: torch.dtype, device: torch.device, *, int8: bool = False) -> int:
    """Return the bytes that `load_network` will take; raises `WeightsError` if there is no usable model."""
    own = weight_bytes(model_files(folder), dtype)
    shape = shape_of(load_config(folder))
    if shape is not None and _is_compiled(shape, dtype, device, int8=int8):
        return bytes_of(shape, dtype, int8)
    return own


def cache_bytes_per_token(config: PretrainedConfig, dtype: torch.dtype) -> int:
    """Return the bytes of one token's keys and values in all layers (an estimate for other architectures)."""
    if (shape := shape_of(config)) is not None:
        return 2 * shape.layers * shape.kv_heads * shape.head_dim * dtype.itemsize
    text = config.get_text_config()
    layers, width = getattr(text, "num_hidden_layers", 1), getattr(text, "hidden_size", 1)
    heads = getattr(text, "num_attention_heads", None) or 1
    kv_heads = getattr(text, "num_key_value_heads", None) or heads
    return 2 * layers * kv_heads * (getattr(text, "head_dim", None) or max(1, width // heads)) * dtype.itemsize


def needed_for_adapter(
    base: Path, adapter: Path, dtype: torch.dtype, device: torch.device, *, int8: bool = False
) -> int:
    """Return the most bytes that the adapter will take in memory; raises `WeightsError` if there is none."""
    shape = shape_of(load_config(base))
    if shape is None:
        return weight_bytes(adapter_files(adapter), dtype)
    if _is_compiled(shape, dtype, device, int8=int8):
        return bytes_of_adapter(adapter, shape, dtype)
    return adapter_bytes(adapter, shape, dtype)


def _is_compiled(shape: Shape, dtype: torch.dtype, device: torch.device, *, int8: bool) -> bool:
    return device.type == "cpu" and computes(shape, dtype, int8)
