"""Cross-entropy fused with the output head: a few positions' logits at a time, never all of them."""

from typing import Any

import torch
from torch import Tensor

from tasks.training.packed.limits import CHUNK


def summed_nll(hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the sum, in nats and float32, of the negative log-likelihoods of `targets`, times their `weights` if any.

    `hidden` has shape (positions, width), `head`, which is frozen, (vocabulary, width). The softmax is in float32.
    """
    nll: Tensor = _SummedNll.apply(hidden, head, targets, weights)  # type: ignore[no-untyped-call]
    return nll


class _SummedNll(torch.autograd.Function):
    """Computes the gradient with the loss, while the logits are there (as in Liger Kernel, arXiv:2410.10989)."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, weights: Tensor | None) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wanted else None
        # Buffers for every chunk: fresh memory of this size costs a page fault for every four kilobytes.
        logits = hidden.new_empty(min(CHUNK, len(hidden)), len(head))
        exact = torch.empty_like(logits, dtype=torch.float32)
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        for start in range(0, len(hidden), CHUNK):
            part, answers = hidden[start : start + CHUNK], targets[start : start + CHUNK, None]
            rough, values = logits[: len(part)], exact[: len(part)]
            torch.mm(part, head.T, out=rough)
            values.copy_(rough)
            answer_values = values.gather(1, answers)
            highest = values.amax(1, keepdim=True)
            summed = values.sub_(highest).exp_().sum(1, keepdim=True)
            nll = highest + summed.log() - answer_values
            counts = None if weights is None else weights[start : start + CHUNK, None]
            total += (nll if counts is None else nll * counts).sum()
            if gradient is not None:
                # d nll / d logits = softmax - one at the answer, where expm1 avoids the difference of near equals.
                torch.mul(values, summed.reciprocal(), out=rough)
                rough.scatter_(1, answers, torch.expm1(-nll).to(rough.dtype))
                if counts is not None:
                    rough.mul_(counts)
                torch.mm(rough, head, out=gradient[start : start + CHUNK])
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * gradients[0].to(gradient.dtype), None, None, None
