"""Multi-LoRA: each token's product gets its own sequence's low-rank update; no adapter is merged into the base."""

from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

from tasks.inference.network.adapter_weights import AdapterLayers, Factors
from tasks.inference.network.shape import ProductName

LEAST_ROWS = 2
"""A batched product of single rows may round differently from one of several: groups have at least this many."""


@dataclass(frozen=True)
class _Rows:
    """How the step's rows lie in a `[groups, rows]` block; None: they are that block already."""

    gather: Tensor
    """For every place of the block the step's row (a repeated one where the group is shorter)."""
    scatter_from: Tensor
    scatter_to: Tensor


class AdapterTable:
    """The adapters in memory by number, and those of the latest step stacked for batched products."""

    def __init__(self) -> None:
        self._adapters: dict[int, AdapterLayers] = {}
        self._stacked_for: tuple[int, ...] = ()
        self._stacks: list[dict[ProductName, Factors]] = []
        self._numbered = 0

    def add(self, layers: AdapterLayers) -> int:
        """Add an adapter; return its number, which is never reused."""
        number, self._numbered = self._numbered, self._numbered + 1
        self._adapters[number] = layers
        return number

    def drop(self, number: int) -> None:
        """Free an adapter."""
        del self._adapters[number]
        self._stacked_for, self._stacks = (), []

    def plan(self, adapter_of_row: list[int], device: torch.device) -> "AdapterPlan | None":
        """Return how the rows of a step use their adapters (-1: none); None if no row has one."""
        present = sorted(set(adapter_of_row) - {-1})
        if not present:
            return None
        self._stack(tuple(present))
        rows_of = {number: [row for row, its in enumerate(adapter_of_row) if its == number] for number in present}
        longest = max(LEAST_ROWS, *(len(rows) for rows in rows_of.values()))
        in_order = [number for number, _ in groupby(adapter_of_row)] == present
        if in_order and all(len(rows) == longest for rows in rows_of.values()):
            return AdapterPlan(self._stacks, len(present), None)
        gather: list[int] = []
        scatter_from: list[int] = []
        scatter_to: list[int] = []
        for group, rows in enumerate(rows_of.values()):
            gather += rows + [rows[-1]] * (longest - len(rows))
            scatter_from += range(group * longest, group * longest + len(rows))
            scatter_to += rows
        places = (torch.tensor(places).to(device) for places in (gather, scatter_from, scatter_to))
        return AdapterPlan(self._stacks, len(present), _Rows(*places))

    def _stack(self, numbers: tuple[int, ...]) -> None:
        """Stack the factors of these adapters; costs nothing while the same ones stay in the batch."""
        if numbers == self._stacked_for:
            return
        self._stacked_for, self._stacks = (), []  # free the old stacks before the new ones are made
        for layers in zip(*(self._adapters[number] for number in numbers), strict=True):
            names = sorted({name for layer in layers for name in layer})
            self._stacks.append({name: _stacked([layer.get(name) for layer in layers]) for name in names})
        self._stacked_for = numbers


class AdapterPlan:
    """One step's adapters: which rows they change, and the stacked factors of every layer."""

    def __init__(self, stacks: list[dict[ProductName, Factors]], groups: int, rows: _Rows | None) -> None:
        self._stacks, self._groups, self._rows = stacks, groups, rows

    def add(self, outputs: Tensor, inputs: Tensor, layer: int, product: ProductName) -> None:
        """Add the adapters' updates to a product's `outputs` `[rows, outputs]` in place."""
        factors = self._stacks[layer].get(product)
        if factors is None:
            return
        block = inputs if self._rows is None else inputs.index_select(0, self._rows.gather)
        low = torch.bmm(block.view(self._groups, -1, inputs.shape[1]), factors.down.transpose(1, 2))
        change = torch.bmm(low, factors.up).view(-1, outputs.shape[1])
        if self._rows is None:
            outputs += change
        else:
            outputs.index_add_(0, self._rows.scatter_to, change.index_select(0, self._rows.scatter_from))


def _stacked(each: list[Factors | None]) -> Factors:
    """Return `[adapters, rank, …]` factors, zeros where an adapter has a lower rank or does not change the product."""
    known = [factors for factors in each if factors is not None]
    if len(each) == 1:
        return Factors(known[0].down.unsqueeze(0), known[0].up.unsqueeze(0))
    rank = max(len(factors.down) for factors in known)
    down = known[0].down.new_zeros(len(each), rank, known[0].down.shape[1])
    up = known[0].up.new_zeros(len(each), rank, known[0].up.shape[1])
    for number, factors in enumerate(each):
        if factors is not None:
            down[number, : len(factors.down)] = factors.down
            up[number, : len(factors.up)] = factors.up
    return Factors(down, up)
