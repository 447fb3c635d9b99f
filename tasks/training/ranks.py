"""The processes that train one model together, one a device: what they add up, agree on and keep, between two steps."""

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
Made = TypeVar("Made")


class Ranks:
    """The group of a run, as the process `rank` of `size` sees it. A run on one device is a group of one.

    Data parallelism as DDP's, without its hooks: every rank has the whole model, reads its share of each step's rows,
    and takes the same step from the same sum of all gradients. All ranks call the same methods in the same order.
    """

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        """Take a place in the process group that is open (see `process_group`) unless there is one rank alone."""
        self.rank = rank
        self.size = size

    def share(self, rows: Sequence[Row]) -> list[Row]:
        """Return this rank's share of `rows`: dealt out by length, so that all have about as many tokens to read."""
        longest_first = sorted(rows, key=lambda row: len(row.input_ids), reverse=True)
        return longest_first[self.rank :: self.size]

    def largest_share(self, rows: Sequence[Row]) -> int:
        """Return how many of `rows` the rank has that has the most."""
        return -(-len(rows) // self.size)

    def sum(self, *counts: float) -> list[float]:
        """Return the sums of all ranks' `counts`, to float64's exactness."""
        if self.size == 1:
            return list(counts)
        sums = torch.tensor(counts, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) for value in sums]

    def any(self, *wishes: bool) -> list[bool]:
        """Return of each of the `wishes` whether some rank has it. Nobody goes on before everybody has been asked."""
        return [votes > 0 for votes in self.sum(*wishes)]

    def add_gradients(self, weights: Iterable[nn.Parameter]) -> None:
        """Give each weight the sum of its gradients on all ranks; one that read no row counts as zero.

        Weights that are divided among the ranks have it already, each rank of its part.
        """
        trained = [weight for weight in weights if not isinstance(weight, DTensor)]
        if self.size == 1 or not trained:
            return
        # In one piece: an adapter is hundreds of small tensors, and each call costs more than its bytes.
        flat = torch.cat([_gradient(weight).flatten() for weight in trained])
        dist.all_reduce(flat)
        totals = torch.split_with_sizes(flat, [weight.numel() for weight in trained])
        for weight, total in zip(trained, totals, strict=True):
            weight.grad = total.view_as(weight)

    def in_turn(self, work: Callable[[], Made]) -> Made:
        """Return what `work` gives; one rank after the other does it, rank 0 first."""
        for turn in range(self.size):
            if turn == self.rank:
                made = work()
            self.any(False)
        return made

    def gather(self, own: dict[str, Tensor]) -> list[dict[str, Tensor]]:
        """Return what each rank holds, in their order, on rank 0; an empty list on the others."""
        if self.size == 1:
            return [own]
        everyones: list[dict[str, Tensor]] | None = [{}] * self.size if self.rank == 0 else None
        dist.gather_object(own, everyones)
        return everyones or []


ALONE = Ranks()


@contextmanager
def process_group(rank: int, size: int, device: torch.device, meeting_place: Path) -> Iterator[Ranks]:
    """Join the group of `size` ranks that meet at the file `meeting_place`, and leave it after the block.

    Gradients on GPUs are added by NCCL, everything on a CPU by gloo. RuntimeError is what a rank gets, in whatever
    it was doing with the others, when one of them is gone.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=meeting_place.as_uri(), rank=rank, world_size=size)
    try:
        yield Ranks(rank, size)
    finally:
        dist.destroy_process_group()


def _gradient(weight: nn.Parameter) -> Tensor:
    return torch.zeros_like(weight) if weight.grad is None else weight.grad
