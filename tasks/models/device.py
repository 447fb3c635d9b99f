"""The model's device and precision: resolves the settings' `auto` to a torch device and dtype."""

import torch

from configs.settings import ComputeDtype


def choose_device(name: str) -> torch.device:
    """Return the torch device for `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the GPU if there is one.

    Raises:
        ValueError: a GPU was asked for by name and torch sees none of that number.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device is {name!r}, but torch sees {torch.cuda.device_count()} GPUs: use 'auto' or 'cpu'")
    return device


def choose_dtype(name: ComputeDtype, device: torch.device) -> torch.dtype:
    """Return the weights' dtype; `auto` is bfloat16 where the chip multiplies it natively, else float32."""
    if name != "auto":
        return torch.bfloat16 if name == "bfloat16" else torch.float32
    return torch.bfloat16 if has_native_bfloat16(device) else torch.float32


def has_native_bfloat16(device: torch.device) -> bool:
    """Return whether `device` has bfloat16 products in hardware (emulated ones are slower than float32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(flag, False) for flag in ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16"))
