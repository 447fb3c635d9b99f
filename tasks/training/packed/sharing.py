"""Data parallelism over a CPU's cores: each thread computes rows of its own, with one synchronisation at the end.

torch divides every single operation among its threads instead, with a barrier at the end of each. That costs an eighth
of the time on an idle machine, and much more on a busy one.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

Share = TypeVar("Share")
Result = TypeVar("Result")

_WITHIN = 0.77
"""n threads inside each operation are worth n to this power of one: two are worth 1.7, as measured on SmolLM2."""


def divide_rows(lengths: Sequence[int], threads: int) -> list[list[int]]:
    """Return the numbers of the rows of each share, so that all shares end at about the same time.

    There are at most as many shares as `threads` and rows; a share has `threads` over the number of shares for itself.
    """
    divided = [_divided(lengths, shares) for shares in range(1, min(threads, len(lengths)) + 1)]
    return min(divided, key=lambda shares: _time(lengths, shares, threads))


def _divided(lengths: Sequence[int], shares: int) -> list[list[int]]:
    """The longest row first, each goes to the share that has least to read."""
    divided: list[list[int]] = [[] for _ in range(shares)]
    tokens = [0] * shares
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        share = tokens.index(min(tokens))
        divided[share].append(row)
        tokens[share] += lengths[row]
    return divided


def _time(lengths: Sequence[int], shares: Sequence[Sequence[int]], threads: int) -> float:
    """How long the shares take, beside each other, in tokens of one thread."""
    within = threads // len(shares)
    longest = max(sum(lengths[row] for row in share) for share in shares)
    return longest / float(within**_WITHIN)


class Threads:
    """Threads for the shares of micro-batches; on a GPU, whose kernels fill it, there is one share and no thread."""

    def __init__(self, device: torch.device) -> None:
        self.number = torch.get_num_threads() if device.type == "cpu" else 1
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def map(self, compute: Callable[[Share], Result], shares: Sequence[Share]) -> list[Result]:
        """Return what `compute` makes of each share; raises the first share's error, when none computes any more."""
        if len(shares) == 1:
            return [compute(shares[0])]
        futures = [self._pool(len(shares)).submit(compute, share) for share in shares]
        wait(futures)
        return [future.result() for future in futures]

    def _pool(self, shares: int) -> ThreadPoolExecutor:
        """Threads with as many of torch's own as each is due; torch keeps that number for each thread."""
        if shares not in self._pools:
            within = self.number // shares
            self._pools[shares] = ThreadPoolExecutor(
                shares, "rows", initializer=torch.set_num_threads, initargs=(within,)
            )
        return self._pools[shares]
