"""LoRA adapters packed in panels: a step finds each row's adapter by its address."""

from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from tasks.inference.cpu.packing import aligned, panels_of, stored, to_panels
from tasks.inference.cpu.panel_product import PANEL
from tasks.inference.cpu.records import Adapters, Array
from tasks.inference.network.adapter_weights import AdapterLayers, Factors, adapter_ranks
from tasks.inference.network.shape import ProductName, Shape

PRODUCTS: tuple[ProductName, ...] = ("qkv", "output", "up", "down")


class AdapterMemory:
    """The adapters in memory, each in a slot; slots are reused."""

    def __init__(self, shape: Shape, dtype: torch.dtype, pairs: bool) -> None:
        """`pairs`: whether the step takes inputs by twos."""
        self._shape, self._dtype, self._pairs = shape, dtype, pairs
        self._parts = [[outputs for _, outputs in shape.products[name].parts] for name in PRODUCTS]
        first_panels = [sum(map(panels_of, parts[:number])) for parts in self._parts for number in range(len(parts))]
        self._held: dict[int, Array] = {}
        self.low_depth = PANEL
        """The largest padded rank of a product, of all adapters that ever were in memory."""
        self.tables = Adapters(
            stored(torch.empty(0, dtype=dtype)),
            np.zeros((1, shape.layers, len(PRODUCTS), 2), dtype=np.int64),
            np.zeros((1, shape.layers, len(first_panels), 3), dtype=np.int64),
            np.array([*first_panels, 0], dtype=np.int64),
        )

    def add(self, layers: AdapterLayers) -> tuple[int, int]:
        """Pack an adapter; return its slot and its bytes."""
        slot = next(number for number in range(len(self._held) + 1) if number not in self._held)
        if slot == len(self.tables.downs):
            self._grow()
        packed = [(number, name, kind, panels) for number, name, kind, panels in self._packed(layers)]
        memory = aligned((sum(panels.size for *_, panels in packed),), packed[0][-1].dtype.type)
        at = 0
        for number, product, part, panels in packed:
            memory[at : at + panels.size] = panels.ravel()
            address = memory.ctypes.data + at * memory.itemsize
            at += panels.size
            if part is None:
                self.tables.downs[slot, number, product] = address, len(panels)
                self.low_depth = max(self.low_depth, len(panels) * PANEL)
            else:
                self.tables.ups[slot, number, part[0]] = address, panels.shape[1], part[1]
        self._held[slot] = memory
        return slot, memory.nbytes

    def drop(self, slot: int) -> None:
        """Free an adapter."""
        self.tables.downs[slot] = 0
        self.tables.ups[slot] = 0
        del self._held[slot]

    def _grow(self) -> None:
        downs, ups = (np.concatenate((table, np.zeros_like(table))) for table in (self.tables.downs, self.tables.ups))
        self.tables = self.tables._replace(downs=downs, ups=ups)

    def _packed(self, layers: AdapterLayers) -> Iterator[tuple[int, int, tuple[int, int] | None, Array]]:
        """Yield layer, product, None or (part, first rank), and panels of the down or that part's up factor."""
        for number, layer in enumerate(layers):
            for product, name in enumerate(PRODUCTS):
                if name in layer:
                    down = layer[name].down.to(self._dtype)
                    padding = down.new_zeros(-len(down) % PANEL, down.shape[1])
                    yield number, product, None, self._panels(torch.cat((down, padding)))
                    yield from ((number, product, *up) for up in self._ups(product, layer[name]))

    def _ups(self, product: int, factors: Factors) -> Iterator[tuple[tuple[int, int], Array]]:
        """Yield each part's nonzero rows of the up factor: its own module's ranks, widened to even bounds."""
        first_part = sum(len(parts) for parts in self._parts[:product])
        for number, up in enumerate(torch.split(factors.up.to(self._dtype), self._parts[product], dim=1)):
            used = up.any(dim=1).nonzero().flatten().tolist()
            if used:
                pairs = _even_range(used[0], used[-1] + 1)
                rows = up[pairs.start : pairs.stop].t()
                padded = rows.new_zeros(panels_of(len(rows)) * PANEL, len(pairs))
                padded[: len(rows), : rows.shape[1]] = rows
                yield (first_part + number, pairs.start), self._panels(padded)

    def _panels(self, weight: Tensor) -> Array:
        out = np.empty((len(weight) // PANEL, weight.shape[1], PANEL), dtype=stored(weight[:0]).dtype)
        to_panels(weight.contiguous(), out, self._pairs)
        return out


def bytes_of_adapter(folder: Path, shape: Shape, dtype: torch.dtype) -> int:
    """Return the most that `AdapterMemory.add` will take for the adapter; raises what `adapter_ranks` raises."""
    numbers = 0
    for product, ranks in adapter_ranks(folder, shape):
        numbers += panels_of(sum(ranks)) * PANEL * product.inputs
        for (_, outputs), rank, end in zip(product.parts, ranks, accumulate(ranks), strict=True):
            numbers += panels_of(outputs) * PANEL * len(_even_range(end - rank, end))
    return numbers * dtype.itemsize


def _even_range(begin: int, end: int) -> range:
    return range(begin - begin % 2, end + end % 2)
