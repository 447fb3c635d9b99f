"""Turns torch's matrices into panels of 32 outputs, at full precision or as int8 with a scale for each output."""

import numpy as np
import torch
from torch import Tensor

from tasks.inference.cpu.panel_product import LANES, PANEL
from tasks.inference.cpu.records import Array, Matrix

_ALIGNMENT = 64
_LARGEST_INT8 = 127.0


def aligned(shape: tuple[int, ...], dtype: type) -> Array:
    """Zeros whose first byte begins a cache line (numpy asks the system for large pages where it has them)."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = np.zeros(size + _ALIGNMENT, dtype=np.uint8)
    begin = -memory.ctypes.data % _ALIGNMENT
    return memory[begin : begin + size].view(dtype).reshape(shape)


def stored(tensor: Tensor) -> Array:
    """The tensor's memory as numpy sees it; bfloat16, which numpy lacks, as uint16."""
    plain = tensor.detach().contiguous()
    if plain.dtype == torch.bfloat16:
        return plain.view(torch.int16).numpy().view(np.uint16)
    return plain.numpy()


def panels_of(outputs: int) -> int:
    """Whole panels that hold so many outputs."""
    return -(-outputs // PANEL)


def pad_parts(rows: Tensor, parts: tuple[int, ...]) -> Tensor:
    """Rows `[outputs, …]` with zeros after each part, so that every part begins a panel."""
    padded = [
        torch.cat((part, part.new_zeros(-len(part) % PANEL, *part.shape[1:]))) for part in rows.split(parts)
    ]
    return torch.cat(padded)


def to_panels(weight: Tensor, out: Array) -> None:
    """Write `weight` `[outputs, inputs]`, outputs a multiple of 32, to `out` `[panels, inputs, 32]`."""
    panels = weight.view(-1, PANEL, weight.shape[1]).transpose(1, 2)
    if weight.dtype == torch.bfloat16:  # a 32-bit word holds outputs i and i + 16: shifts and masks take them apart
        panels = panels.reshape(len(panels), -1, 2, LANES).transpose(2, 3).reshape(len(panels), -1, PANEL)
    out[:] = stored(panels)


def pack(weights: list[Tensor], biases: list[Tensor | None], parts: tuple[int, ...], int8: bool) -> Matrix:
    """Pack one product of all layers: each weight `[outputs, inputs]`, outputs divided into `parts`."""
    panel_count = sum(panels_of(part) for part in parts)
    element = np.int8 if int8 else stored(weights[0][:0]).dtype.type
    matrix = Matrix(
        aligned((len(weights), panel_count, weights[0].shape[1], PANEL), element),
        aligned((len(weights), panel_count * PANEL), np.float32),
        aligned((len(weights), panel_count * PANEL), np.float32),
    )
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        padded, scale = pad_parts(weight.detach(), parts), torch.ones(panel_count * PANEL)
        if int8:
            padded, scale = quantized(padded)
        to_panels(padded, matrix.panels[layer])
        matrix.scale[layer] = scale.numpy()
        if bias is not None:
            matrix.bias[layer] = pad_parts(bias.detach().float(), parts).numpy()
    return matrix


def quantized(weight: Tensor) -> tuple[Tensor, Tensor]:
    """int8 weights and the float32 scale of every output: weight is about int8 * scale."""
    exact = weight.float()
    scale = exact.abs().amax(dim=1) / _LARGEST_INT8
    divisor = torch.where(scale > 0, scale, 1.0)
    return (exact / divisor[:, None]).round().to(torch.int8), scale
