"""The process group of a data-parallel run: all-reduce, gather and agreement between steps."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tasks.training.batch import TokenRow

Row = TypeVar("Row", bound=TokenRow)
Result = TypeVar("Result")


class Ranks:
    """The group of a run, as the process `rank` of `size` sees it. A run on one device is a group of one.

    Data parallelism as in DDP, without its hooks: every rank has the full model, reads its share of each step's rows,
    and takes the same step from the same sum of all gradients. All ranks call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Describe this process's place in the open process group (see `process_group`), or a single rank."""
        self.rank = rank
        self.size = size

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """Return this rank's share of `rows`: distributed by length, so that all read about as many tokens."""
        longest_first = sorted(rows, key=lambda row: len(row.input_ids), reverse=True)
        return longest_first[self.rank :: self.size]

    def largest_share(self, rows: Sequence[Row]) -> int:
        """Return the largest number of `rows` that a rank gets."""
        return -(-len(rows) // self.size)

    def sum(self, *counts: float) -> list[float]:
        """Return the sums of all ranks' `counts`, to float64's exactness."""
        if self.size == 1:
            return list(counts)
        sums = torch.tensor(counts, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def any(self, *votes: bool) -> list[bool]:
        """Return for each vote whether any rank's is true. It is a barrier: no rank goes on before all have voted."""
        return [count > 0 for count in self.sum(*votes)]

    def add_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """All-reduce the gradients (sum); a rank that read no row counts as zero.

        Sharded weights are left out: FSDP has reduced theirs.
        """
        trained = [weight for weight in weights if not isinstance(weight, DTensor)]
        if self.size == 1 or not trained:
            return
        # As one flat tensor: an adapter is hundreds of small tensors, and each call has a fixed cost.
        flat = torch.cat([_gradient(weight).flatten() for weight in trained])
        dist.all_reduce(flat)
        totals = torch.split_with_sizes(flat, [weight.numel() for weight in trained])
        for weight, total in zip(trained, totals, strict=True):
            weight.grad = total.view_as(weight)

    def in_turn(self, work: Callable[[], Result]) -> Result:
        """Run `work` on one rank after the other, rank 0 first, and return its result."""
        for turn in range(self.size):
            if turn == self.rank:
                made = work()
            self.any(False)
        return made

    def gather(self, own: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return every rank's tensors in rank order on rank 0; an empty list on the others."""
        if self.size == 1:
            return [own]
        gathered: list[dict[str, Tensor]] | None = [{}] * self.size if self.rank == 0 else None
        dist.gather_object(own, gathered)
        return gathered or []

    def same(self, value: Result | None) -> Result | None:
        """Return rank 0's `value`, which must pickle, on every rank."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def broadcast(self, tensor: Tensor) -> Tensor:
        """Return rank 0's `tensor`, in main memory; the others' says no more than its shape and type."""
        if self.size == 1:
            return tensor
        received = tensor if self.rank == 0 else torch.empty_like(tensor, device="cpu")
        dist.broadcast(received, 0)
        return received


SINGLE_RANK = Ranks()


@contextmanager
def process_group(rank: int, size: int, device: torch.device, rendezvous: Path) -> Iterator[Ranks]:
    """Join the group of `size` ranks by the file `rendezvous`, and leave it after the block.

    NCCL reduces on GPUs, gloo on a CPU. When a rank is gone, the collective operations of the others raise
    RuntimeError.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=rendezvous.as_uri(), rank=rank, world_size=size)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
