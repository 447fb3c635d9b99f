"""Causal attention within each packed row, with rotary positions (Su et al. 2021, arXiv:2104.09864) and shared keys."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tasks.training.packed.limits import LONGEST_DIRECT


@dataclass(frozen=True)
class Heads:
    """How a merged projection is divided: `query` heads of queries, then `shared` of keys, then as many of values."""

    query: int
    shared: int
    width: int
    scale: float

    @property
    def division(self) -> list[int]:
        """The numbers of heads of queries, keys and values."""
        return [self.query, self.shared, self.shared]


def attend(qkv: Tensor, cos: Tensor, sin: Tensor, lengths: list[int], heads: Heads) -> Tensor:
    """Return the heads' outputs, (tokens, query · width), for the merged projection `qkv` of packed rows.

    `cos` and `sin` have shape (tokens, width / 2), in the format of `qkv`.
    """
    rotated: Tensor = _Rotation.apply(qkv.view(len(qkv), -1, heads.width), cos, sin, heads)  # type: ignore[no-untyped-call]
    # torch's fused CPU kernel takes three to four times as long as plain products at these lengths.
    if qkv.device.type == "cpu" and max(lengths) <= LONGEST_DIRECT:
        output: Tensor = _RowAttention.apply(rotated, lengths, heads)  # type: ignore[no-untyped-call]
        return output
    outputs = []
    for row in torch.split(rotated, lengths):
        query, key, value = torch.split(row.transpose(0, 1)[None], heads.division, dim=1)
        mixed = scaled_dot_product_attention(query, key, value, is_causal=True, scale=heads.scale, enable_gqa=True)
        outputs.append(mixed[0].transpose(0, 1).flatten(1))
    return torch.cat(outputs)


class _Rotation(torch.autograd.Function):
    """Turns queries and keys by their positions; backward turns the gradient back, so only the angles are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor, heads: Heads) -> Tensor:
        ctx.save_for_backward(cos, sin)
        ctx.heads = heads
        return _turn(x, cos, sin, heads)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, -sin, ctx.heads), None, None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, heads: Heads) -> Tensor:
    """Rotate the pairs (i, i + width / 2) of the queries and keys in `x`, (tokens, heads, width); copy the values."""
    turned = torch.empty_like(x)
    positional = heads.query + heads.shared
    turned[:, positional:] = x[:, positional:]
    left, right = x[:, :positional].chunk(2, dim=-1)
    cos, sin = cos[:, None], sin[:, None]
    half = heads.width // 2
    torch.mul(left, cos, out=turned[:, :positional, :half]).addcmul_(right, sin, value=-1)
    torch.mul(right, cos, out=turned[:, :positional, half:]).addcmul_(left, sin)
    return turned


class _RowAttention(torch.autograd.Function):
    """softmax(scale · Q Kᵀ) V for each row; the query heads that share a key are rows of one product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, lengths: list[int], heads: Heads) -> Tensor:
        future = torch.full((max(lengths), max(lengths)), float("-inf"), dtype=x.dtype, device=x.device).triu_(1)
        output = x.new_empty(len(x), heads.query, heads.width)
        weights = []
        for row, mixed in _rows(lengths, x, output):
            query, key, value = _by_key(row, heads)
            scores = (query @ key.mT).view(heads.shared, -1, len(row), len(row))
            torch.add(future[: len(row), : len(row)], scores, alpha=heads.scale, out=scores)
            weight = scores.softmax(-1).flatten(1, 2)
            _grouped(mixed, heads).copy_((weight @ value).view(heads.shared, -1, len(row), heads.width))
            weights.append(weight)
        ctx.save_for_backward(x, *weights)
        ctx.lengths, ctx.heads = lengths, heads
        return output.flatten(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (x, *weights), heads = ctx.saved_tensors, ctx.heads
        dx = torch.empty_like(x)
        d_output = gradients[0].view(len(x), heads.query, heads.width)
        for (row, d_heads, d_row), weight in zip(_rows(ctx.lengths, x, d_output, dx), weights, strict=True):
            query, key, value = _by_key(row, heads)
            d_mixed = _grouped(d_heads, heads).flatten(1, 2)
            d_scores = torch.ops.aten._softmax_backward_data(d_mixed @ value.mT, weight, -1, weight.dtype)
            d_query, d_key, d_value = torch.split(d_row, heads.division, dim=1)
            by_head = (d_scores @ key).view(heads.shared, -1, len(row), heads.width)
            torch.mul(by_head, heads.scale, out=_grouped(d_query, heads))
            torch.mul(d_scores.mT @ query, heads.scale, out=d_key.transpose(0, 1))
            d_value.transpose(0, 1).copy_(weight.mT @ d_mixed)
        return dx, None, None


def _rows(lengths: list[int], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield each row's part of the packed `tensors`."""
    return zip(*(torch.split(tensor, lengths) for tensor in tensors), strict=True)


def _grouped(x: Tensor, heads: Heads) -> Tensor:
    """View `x`, (length, query heads, width), as (shared heads, query heads of each, length, width)."""
    return torch.unflatten(x, 1, (heads.shared, -1)).permute(1, 2, 0, 3)


def _by_key(row: Tensor, heads: Heads) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries, (shared, queries of each · length, width), keys and values, (shared, length, width)."""
    query, key, value = torch.split(row, heads.division, dim=1)
    return _grouped(query, heads).flatten(1, 2), key.transpose(0, 1), value.transpose(0, 1)
