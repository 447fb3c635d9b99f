"""The operations between the products, with backward passes that recompute what is cheap instead of keeping it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """Return weight · x / rms(x) over the last dimension (Zhang and Sennrich 2019, arXiv:1910.07467)."""
    y: Tensor = _RMSNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return y


def swiglu(gate_up: Tensor) -> Tensor:
    """Return silu(gate) · up for `gate` and `up` side by side in `gate_up` (Shazeer 2020, arXiv:2002.05202)."""
    y: Tensor = _SwiGLU.apply(gate_up)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    """Keeps only the input for the backward pass. The weight is frozen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        return nn.functional.rms_norm(x, x.shape[-1:], weight, epsilon)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        x, weight = ctx.saved_tensors
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = torch.rsqrt(norm.square() / x.shape[-1] + ctx.epsilon)
        dx = gradients[0] * weight
        along = (dx * x).sum(-1, keepdim=True, dtype=torch.float32) * inverse * inverse.square() / x.shape[-1]
        return dx.mul_(inverse.to(x.dtype)).addcmul_(x, along.to(x.dtype), value=-1), None, None


class _SwiGLU(torch.autograd.Function):
    """Keeps what it computed: it is computed in the backward pass, and used there at once."""

    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        activated = silu(gate)
        ctx.save_for_backward(gate_up, activated)
        return activated * up

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (gate_up, activated), dy = ctx.saved_tensors, gradients[0]
        gate, up = gate_up.chunk(2, dim=-1)
        d_gate_up = torch.empty_like(gate_up)
        d_gate, d_up = d_gate_up.chunk(2, dim=-1)
        torch.mul(activated, dy, out=d_up)
        torch.ops.aten.silu_backward.grad_input(dy * up, gate, grad_input=d_gate)
        return d_gate_up
