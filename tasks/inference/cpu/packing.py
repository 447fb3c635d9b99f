"""Turns torch's matrices into panels of 32 outputs, at full precision or as int8 with a scale for each output."""

import numpy as np
import torch
from torch import Tensor

from tasks.inference.cpu.panel_product import GROUP, LANES, PANEL
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
    pieces: list[Tensor] = []
    for part in torch.split(rows, list(parts)):
        pieces += (part, part.new_zeros(-len(part) % PANEL, *part.shape[1:]))
    return torch.cat(pieces)


def to_panels(weight: Tensor, out: Array, pairs: bool) -> None:
    """Write `weight` `[outputs, inputs]`, outputs a multiple of 32, to `out` `[panels, inputs, 32]`.

    `pairs`: as a loop over pairs of inputs of bfloat16 reads it, each output's weights of two inputs side by side.
    """
    panels = weight.view(-1, PANEL, weight.shape[1])
    if pairs:
        twos = panels.view(*panels.shape[:2], -1, 2).transpose(1, 2)
        out[:] = stored(twos.reshape(out.shape))
        return
    panels = panels.transpose(1, 2)
    out[:] = stored(_halved(panels) if weight.dtype == torch.bfloat16 else panels)


def _halved(panels: Tensor) -> Tensor:
    """Outputs i and i + 16 side by side: a shift and a mask take a 32-bit word of both apart."""
    return panels.reshape(*panels.shape[:-1], 2, LANES).transpose(-2, -1).reshape(panels.shape)


def to_int8_panels(weight: Tensor, out: Array) -> None:
    """Write `weight` `[outputs, inputs]` to `out` `[panels, inputs / 32 * 34, 32]`: scales, then 32 inputs as int8.

    A weight is about its int8 times its scale, the scale of bfloat16.
    """
    groups = weight.float().view(len(weight) // PANEL, PANEL, -1, GROUP).permute(0, 2, 3, 1)
    scale = (groups.abs().amax(dim=2, keepdim=True) / _LARGEST_INT8).bfloat16()
    divisor = torch.where(scale > 0, scale.float(), 1.0)
    rounded = (groups / divisor).round().clamp(-_LARGEST_INT8, _LARGEST_INT8).to(torch.int8)
    scales = _halved(scale).contiguous().view(torch.int8).view(*groups.shape[:2], 2, PANEL)
    out[:] = torch.cat((scales, rounded), dim=2).view(out.shape).numpy()


def packed_bytes(layers: int, inputs: int, parts: tuple[int, ...], element: int, int8: bool) -> int:
    """Return the bytes of what `pack` will return for weights of `element` bytes a number."""
    outputs = sum(panels_of(part) for part in parts) * PANEL
    depth = inputs // GROUP * (GROUP + 2) if int8 else inputs * element
    return layers * outputs * (depth + np.dtype(np.float32).itemsize)


def pack(weights: list[Tensor], biases: list[Tensor | None], parts: tuple[int, ...], int8: bool, pairs: bool) -> Matrix:
    """Pack one product of all layers: each weight `[outputs, inputs]`, outputs divided into `parts`."""
    panel_count, inputs = sum(panels_of(part) for part in parts), weights[0].shape[1]
    depth, element = (inputs // GROUP * (GROUP + 2), np.int8) if int8 else (inputs, stored(weights[0][:0]).dtype.type)
    matrix = Matrix(
        aligned((len(weights), panel_count, depth, PANEL), element),
        aligned((len(weights), panel_count * PANEL), np.float32),
        inputs,
    )
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        padded = pad_parts(weight.detach(), parts)
        if int8:
            to_int8_panels(padded, matrix.panels[layer])
        else:
            to_panels(padded, matrix.panels[layer], pairs)
        if bias is not None:
            matrix.bias[layer] = pad_parts(bias.detach().float(), parts).numpy()
    return matrix
