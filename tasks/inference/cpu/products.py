"""Matrix products of a step with their adapters, in tasks of a few panels."""

import numpy as np

from tasks.inference.cpu.intrinsics import exponential
from tasks.inference.cpu.kernel import kernel
from tasks.inference.cpu.kernels import put, together
from tasks.inference.cpu.panel_product import PANEL, ROWS, multiply_panels, panels_at_once
from tasks.inference.cpu.records import Adapters, Array, Batch, Matrix

MOST_PANELS = 4
"""Panels of a task: large enough that claiming is rare, small enough that threads finish together."""
STRIDE = MOST_PANELS * PANEL
_MANY_PANELS = 64

# Numbers of the products in `Model.matrices` and `Adapters.downs`, and of each one's first part in `Adapters.ups`.
QKV, OUTPUT, UP, DOWN, HEAD = 0, 1, 2, 3, 4
_FIRST_PART = (0, 3, 4, 6, 7)

_panels_at_once = kernel(panels_at_once)


@kernel
def _multiply(
    matrix: Matrix, layer: int, first: int, count: int, inputs: Array, block: int, rows: int, out: Array, at: int
) -> None:
    """Write a block's products with `count` panels, with bias, to `out[at:]`, a row every STRIDE."""
    depth = matrix.inputs
    size = matrix.panels.shape[2] * PANEL * matrix.panels.itemsize
    address = matrix.panels.ctypes.data + (layer * matrix.panels.shape[1] + first) * size
    done = 0
    while done < count:
        panels = _panels_at_once(rows)
        while panels > count - done:
            panels //= 2
        place, target = address + done * size, at + done * PANEL
        multiply_panels(matrix.panels, place, inputs, block * depth, rows, depth, out, target, STRIDE, rows, panels)
        done += panels
    for row in range(rows):
        for k in range(count * PANEL):
            out[at + row * STRIDE + k] += matrix.bias[layer, first * PANEL + k]


@kernel
def _add_adapters(
    adapters: Adapters,
    batch: Batch,
    low: Array,
    layer: int,
    product: int,
    first: int,
    count: int,
    block: int,
    rows: int,
    out: Array,
    at: int,
    spare: int,
) -> None:
    """Add the up products of the block's adapters to `out[at:]`; `out[spare:]` is scratch."""
    low_depth = low.size // (-(-batch.token_ids.size // ROWS) * ROWS)
    for run in range(batch.run_of_block[block // ROWS], batch.run_of_block[block // ROWS + 1]):
        lane, run_rows, adapter = batch.runs[run, 0] - block, batch.runs[run, 1], batch.runs[run, 2]
        for panel in range(first, first + count):
            part = _FIRST_PART[product]
            while part + 1 < _FIRST_PART[product + 1] and panel >= adapters.part_panels[part + 1]:
                part += 1
            rank = adapters.ups[adapter, layer, part, 1]
            if rank == 0:
                continue
            size = rank * PANEL * adapters.like.itemsize
            address = adapters.ups[adapter, layer, part, 0] + (panel - adapters.part_panels[part]) * size
            source = block * low_depth + adapters.ups[adapter, layer, part, 2] * rows + lane * together(low)
            multiply_panels(adapters.like, address, low, source, rows, rank, out, spare, PANEL, run_rows, 1)
            target = at + lane * STRIDE + (panel - first) * PANEL
            for i in range(run_rows):
                for k in range(PANEL):
                    out[target + i * STRIDE + k] += out[spare + i * PANEL + k]


@kernel
def adapt_down(
    run: int,
    adapters: Adapters,
    batch: Batch,
    layer: int,
    product: int,
    inputs: Array,
    depth: int,
    low: Array,
    out: Array,
) -> None:
    """Fill a run's part of `low` with the down products of its adapter; `out` is scratch."""
    rows = batch.token_ids.size
    low_depth = low.size // (-(-rows // ROWS) * ROWS)
    row, run_rows, adapter = batch.runs[run, 0], batch.runs[run, 1], batch.runs[run, 2]
    block = row - row % ROWS
    lanes = min(ROWS, rows - block)
    lane = (row - block) * together(low)
    for panel in range(adapters.downs[adapter, layer, product, 1]):
        address = adapters.downs[adapter, layer, product, 0] + panel * depth * PANEL * adapters.like.itemsize
        source = block * depth + lane
        multiply_panels(adapters.like, address, inputs, source, lanes, depth, out, 0, PANEL, run_rows, 1)
        target = block * low_depth + lane
        for i in range(run_rows):
            for k in range(PANEL):
                put(out[i * PANEL + k], low, target + i * together(low), lanes, panel * PANEL + k)


@kernel
def product_tasks(matrix: Matrix, product: int) -> int:
    """The number of tasks of a product."""
    panels = _columns(matrix, product)
    return -(-panels // _per_task(panels))


@kernel
def _columns(matrix: Matrix, product: int) -> int:
    """Panels of a product's results: gate and up make one together."""
    return matrix.panels.shape[1] // 2 if product == UP else matrix.panels.shape[1]


@kernel
def _per_task(panels: int) -> int:
    return MOST_PANELS if panels >= _MANY_PANELS else 2


@kernel
def _gate(out: Array, up_at: int, rows: int, width: int, inner: Array, at: int) -> None:
    """silu(gate) * up of a block's columns into `inner[at:]`, interleaved."""
    for row in range(rows):
        for k in range(width):
            gate, up = out[row * STRIDE + k], out[up_at + row * STRIDE + k]
            out[row * STRIDE + k] = gate / (np.float32(1) + exponential(-gate)) * up
    for k in range(width):
        for row in range(rows):
            put(out[row * STRIDE + k], inner, at + row * together(inner), rows, k)


@kernel
def project(
    task: int,
    matrix: Matrix,
    adapters: Adapters,
    batch: Batch,
    layer: int,
    product: int,
    inputs: Array,
    low: Array,
    inner: Array,
    target: Array,
    outputs: int,
    rows: int,
    out: Array,
) -> None:
    """Some columns of a product of all rows, as far as its first `outputs`; `out` is scratch.

    Queries, keys, values and logits are written to `target` `[rows, outputs]`, what goes back to the residual stream is
    added there; silu(gate) * up goes to `inner`, interleaved.
    """
    panels, halves = _columns(matrix, product), 2 if product == UP else 1
    first = task * _per_task(panels)
    count = min(_per_task(panels), panels - first)
    width = min(count * PANEL, outputs - first * PANEL)
    for block in range(0, rows, ROWS):
        height = min(ROWS, rows - block)
        for half in range(halves):
            start, at = first + half * panels, half * ROWS * STRIDE
            _multiply(matrix, layer, start, count, inputs, block, height, out, at)
            if batch.runs.shape[0] and product != HEAD:
                spare = 2 * ROWS * STRIDE
                _add_adapters(adapters, batch, low, layer, product, start, count, block, height, out, at, spare)
        if product == UP:
            _gate(out, ROWS * STRIDE, height, width, inner, block * outputs + first * PANEL * height)
        elif product in (QKV, HEAD):
            for row in range(height):
                for k in range(width):
                    target[block + row, first * PANEL + k] = out[row * STRIDE + k]
        else:
            for row in range(height):
                for k in range(width):
                    target[block + row, first * PANEL + k] += out[row * STRIDE + k]
