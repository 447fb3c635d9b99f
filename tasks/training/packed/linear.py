"""Frozen linear layers that read the same input, computed as one product, with their low-rank adapters."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from tasks.training.packed.dropout import Streams, keep_probability, masked


@dataclass(frozen=True)
class Adapter:
    """One layer's low-rank update, scale · B A x, which lands in columns `start` to `end` of the merged output."""

    start: int
    end: int
    first: nn.Parameter
    """A, float32 (rank, in)."""
    second: nn.Parameter
    """B, float32 (end - start, rank)."""
    scale: float


class MergedLinear:
    """One or more linear layers of the model, and the trained adapters of those that have one.

    The layers' weights become views of one merged tensor, so they stay usable and nothing is held twice. All adapters
    of a merged product share one dropout mask over their common input, where peft has one for each layer.
    """

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        plain: list[Any] = [layer.base_layer if isinstance(layer, LoraLayer) else layer for layer in layers]
        self.weight = torch.cat([layer.weight.data for layer in plain])
        self.bias = None if plain[0].bias is None else torch.cat([layer.bias.data for layer in plain])
        self.adapters: list[Adapter] = []
        self.dropout = 0.0
        start = 0
        for layer, base in zip(layers, plain, strict=True):
            end = start + base.out_features
            base.weight.data = self.weight[start:end]
            if isinstance(layer, LoraLayer):
                (name,) = layer.active_adapters
                dropout = layer.lora_dropout[name]
                self.dropout = dropout.p if isinstance(dropout, nn.Dropout) else 0.0
                first, second = layer.lora_A[name].weight, layer.lora_B[name].weight
                self.adapters.append(Adapter(start, end, first, second, layer.scaling[name]))
            start = end

    def __call__(
        self, source: Tensor, streams: Streams | None, produce: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Return the layers' outputs side by side, (tokens, sum of widths), for an input of shape (tokens, in).

        The input is `source`, or `produce(source)` where that is cheap to compute again: then it is not kept. Dropout's
        masks come from `streams`; without, nothing is dropped.
        """
        factors = [factor for adapter in self.adapters for factor in (adapter.first, adapter.second)]
        mask = streams.keep_mask(self.weight.shape[1], self.dropout) if streams and self.dropout and factors else None
        output: Tensor = _AdaptedProduct.apply(source, mask, self, produce or _as_it_is, *factors)  # type: ignore[no-untyped-call]
        return output


class _AdaptedProduct(torch.autograd.Function):
    """y = W x + b + Σ scale · B A (mask x) for x = produce(source); keeps the source, the mask and A's output."""

    @staticmethod
    def forward(
        ctx: Any,
        source: Tensor,
        mask: Tensor | None,
        layer: MergedLinear,
        produce: Callable[[Tensor], Tensor],
        *factors: Tensor,
    ) -> Tensor:
        x = produce(source)
        y = nn.functional.linear(x, layer.weight, layer.bias)
        ctx.layer, ctx.produce = layer, produce
        if not layer.adapters:
            ctx.save_for_backward(source)
            return y
        dropped = x if mask is None else masked(x, mask)
        firsts = _stacked_firsts(layer, x.dtype)
        inner = dropped @ firsts.T
        seconds = _scaled_seconds(layer, x.dtype, mask is not None)
        for adapter, part, second in zip(layer.adapters, _split(layer, inner), seconds, strict=True):
            y[:, adapter.start : adapter.end].addmm_(part, second.T)
        ctx.save_for_backward(source, mask, inner, firsts, *seconds)
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dy,), layer, (source, *kept) = gradients, ctx.layer, ctx.saved_tensors
        source = source.detach().requires_grad_(ctx.needs_input_grad[0])
        with torch.enable_grad():
            x = ctx.produce(source)
        dx = dy @ layer.weight if source.requires_grad else None
        d_factors = _factor_gradients(layer, x.detach(), dx, dy, *kept) if layer.adapters else []
        d_source = None if dx is None else torch.autograd.grad(x, source, dx)[0]
        return d_source, None, None, None, *d_factors


def _as_it_is(source: Tensor) -> Tensor:
    return source.view_as(source)


def _factor_gradients(
    layer: MergedLinear,
    x: Tensor,
    dx: Tensor | None,
    dy: Tensor,
    mask: Tensor | None,
    inner: Tensor,
    firsts: Tensor,
    *seconds: Tensor,
) -> list[Tensor]:
    """Return the gradients of the adapters' A and B in turn, and add to `dx` what comes through the adapters."""
    d_inner = torch.empty_like(inner)
    d_seconds = []
    for adapter, part, d_part, second in zip(
        layer.adapters, _split(layer, inner), _split(layer, d_inner), seconds, strict=True
    ):
        d_output = dy[:, adapter.start : adapter.end]
        d_part.copy_(d_output @ second)
        d_seconds.append((part.T @ d_output).T.float() * _scale(layer, adapter, mask is not None))
    d_firsts = _split(layer, (d_inner.T @ (x if mask is None else masked(x, mask))).float().T)
    if dx is not None:
        through = d_inner @ firsts
        dx += through if mask is None else masked(through, mask)
    return [gradient for first, second in zip(d_firsts, d_seconds, strict=True) for gradient in (first.T, second)]


def _stacked_firsts(layer: MergedLinear, dtype: torch.dtype) -> Tensor:
    """Return the adapters' A stacked, (sum of ranks, in)."""
    return torch.cat([adapter.first.detach() for adapter in layer.adapters]).to(dtype)


def _split(layer: MergedLinear, stacked: Tensor) -> Sequence[Tensor]:
    """Split the last dimension, the sum of the ranks, by adapter."""
    return torch.split(stacked, [len(adapter.first) for adapter in layer.adapters], dim=-1)


def _scale(layer: MergedLinear, adapter: Adapter, dropping: bool) -> float:
    """Return the update's scale; what dropout leaves is scaled up here, in the small factor, not in the input."""
    return adapter.scale / keep_probability(layer.dropout) if dropping else adapter.scale


def _scaled_seconds(layer: MergedLinear, dtype: torch.dtype, dropping: bool) -> list[Tensor]:
    """Return the adapters' B, each times its scale."""
    return [(adapter.second.detach() * _scale(layer, adapter, dropping)).to(dtype) for adapter in layer.adapters]
