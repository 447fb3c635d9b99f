"""Matrix products of a step with their adapters: tasks of a few panels, drawn by whichever thread is free."""

import numpy as np
from numba import njit

from tasks.inference.cpu.intrinsics import exponential
from tasks.inference.cpu.panel_product import PANEL, ROWS, multiply_panels, panels_at_once
from tasks.inference.cpu.records import Adapters, Array, Batch, Matrix, Work
from tasks.inference.cpu.team import Cells, next_task

MOST_PANELS = 4
"""Panels of a task: large enough to draw rarely, small enough that threads end together."""
STRIDE = MOST_PANELS * PANEL
_MANY_PANELS = 64

# Numbers of the products in `Adapters.downs`, and of each one's first part in `Adapters.ups`.
QKV, OUTPUT, UP, DOWN = 0, 1, 2, 3
_FIRST_PART = (0, 3, 4, 6, 7)

_panels_at_once = njit(panels_at_once)


@njit(error_model="numpy")
def task_panels(panels: int) -> int:
    """Panels of a task."""
    return MOST_PANELS if panels >= _MANY_PANELS else 2


@njit(error_model="numpy")
def _multiply(  # noqa: PLR0913
    matrix: Matrix, layer: int, first: int, count: int, inputs: Array, block: int, rows: int, out: Array, at: int
) -> None:
    """Write a block's products with panels first to first + count, scaled and with bias, to `out[at:]`, a row every STRIDE."""
    depth = matrix.panels.shape[2]
    size = depth * PANEL * matrix.panels.itemsize
    address = matrix.panels.ctypes.data + (layer * matrix.panels.shape[1] + first) * size
    done = 0
    while done < count:
        together = min(_panels_at_once(rows), count - done)
        together = 2 if together == 3 else together
        target = at + done * PANEL
        multiply_panels(
            matrix.panels, address + done * size, inputs, block * depth, rows, depth, out, target, STRIDE, rows, together
        )
        done += together
    for row in range(rows):
        for k in range(count * PANEL):
            column = first * PANEL + k
            out[at + row * STRIDE + k] = out[at + row * STRIDE + k] * matrix.scale[layer, column] + matrix.bias[layer, column]


@njit(error_model="numpy")
def _add_adapters(  # noqa: PLR0913
    adapters: Adapters, batch: Batch, work: Work, layer: int, product: int, first: int, count: int, block: int,
    rows: int, out: Array, at: int, spare: int,
) -> None:
    """Add the up products of the block's adapters to `out[at:]`; `out[spare:]` is scratch."""
    low_depth = work.low.size // (-(-batch.token_ids.size // ROWS) * ROWS)
    for run in range(batch.run_of_block[block // ROWS], batch.run_of_block[block // ROWS + 1]):
        row, run_rows, adapter = batch.runs[run]
        for panel in range(first, first + count):
            part = _FIRST_PART[product]
            while part + 1 < _FIRST_PART[product + 1] and panel >= adapters.part_panels[part + 1]:
                part += 1
            address, rank, first_rank = adapters.ups[adapter, layer, part]
            if rank == 0:
                continue
            address += (panel - adapters.part_panels[part]) * rank * PANEL * adapters.like.itemsize
            source = block * low_depth + first_rank * rows + row - block
            multiply_panels(adapters.like, address, work.low, source, rows, rank, out, spare, PANEL, run_rows, 1)
            target = at + (row - block) * STRIDE + (panel - first) * PANEL
            for i in range(run_rows):
                for k in range(PANEL):
                    out[target + i * STRIDE + k] += out[spare + i * PANEL + k]


@njit(error_model="numpy")
def adapt_down(  # noqa: PLR0913
    cells: Cells, adapters: Adapters, batch: Batch, work: Work, layer: int, product: int, inputs: Array, depth: int,
    thread: int,
) -> None:
    """Fill `work.low` with the down products of every row's adapter."""
    rows, out = batch.token_ids.size, work.panels[thread]
    low_depth = work.low.size // (-(-rows // ROWS) * ROWS)
    while True:
        run = next_task(cells)
        if run >= batch.runs.shape[0]:
            return
        row, run_rows, adapter = batch.runs[run]
        block = row - row % ROWS
        lanes = min(ROWS, rows - block)
        address, panels = adapters.downs[adapter, layer, product]
        for panel in range(panels):
            at = address + panel * depth * PANEL * adapters.like.itemsize
            source = block * depth + row - block
            multiply_panels(adapters.like, at, inputs, source, lanes, depth, out, 0, PANEL, run_rows, 1)
            target = block * low_depth + panel * PANEL * lanes + row - block
            for i in range(run_rows):
                for k in range(PANEL):
                    work.low[target + k * lanes + i] = out[i * PANEL + k]


@njit(error_model="numpy")
def project(  # noqa: PLR0913
    cells: Cells, matrix: Matrix, adapters: Adapters, batch: Batch, work: Work, layer: int, product: int, inputs: Array,
    target: Array, thread: int,
) -> None:
    """Write (queries, keys, values) or add (to the residual stream) one product of all rows in `target` `[rows, width]`."""
    out, rows = work.panels[thread], batch.token_ids.size
    panels = matrix.panels.shape[1]
    while True:
        first = next_task(cells) * task_panels(panels)
        if first >= panels:
            return
        count = min(task_panels(panels), panels - first)
        width = min(count * PANEL, target.shape[1] - first * PANEL)
        for block in range(0, rows, ROWS):
            height = min(ROWS, rows - block)
            _multiply(matrix, layer, first, count, inputs, block, height, out, 0)
            if batch.runs.shape[0]:
                _add_adapters(
                    adapters, batch, work, layer, product, first, count, block, height, out, 0, ROWS * STRIDE
                )
            for row in range(height):
                for k in range(width):
                    result = out[row * STRIDE + k]
                    if product != QKV:
                        result += target[block + row, first * PANEL + k]
                    target[block + row, first * PANEL + k] = result


@njit(error_model="numpy")
def project_up(  # noqa: PLR0913
    cells: Cells, matrix: Matrix, adapters: Adapters, batch: Batch, work: Work, layer: int, inner: int, thread: int
) -> None:
    """silu(gate) * up of all rows into `work.inner`, interleaved; `inner`: its width."""
    out, rows = work.panels[thread], batch.token_ids.size
    panels = matrix.panels.shape[1] // 2
    up_at, spare = ROWS * STRIDE, 2 * ROWS * STRIDE
    while True:
        first = next_task(cells) * task_panels(panels)
        if first >= panels:
            return
        count = min(task_panels(panels), panels - first)
        width = min(count * PANEL, inner - first * PANEL)
        for block in range(0, rows, ROWS):
            height = min(ROWS, rows - block)
            _multiply(matrix, layer, first, count, work.inputs, block, height, out, 0)
            _multiply(matrix, layer, panels + first, count, work.inputs, block, height, out, up_at)
            if batch.runs.shape[0]:
                _add_adapters(adapters, batch, work, layer, UP, first, count, block, height, out, 0, spare)
                _add_adapters(adapters, batch, work, layer, UP, panels + first, count, block, height, out, up_at, spare)
            for row in range(height):
                for k in range(width):
                    gate, up = out[row * STRIDE + k], out[up_at + row * STRIDE + k]
                    out[row * STRIDE + k] = gate / (np.float32(1) + exponential(-gate)) * up
            for k in range(width):
                for row in range(height):
                    work.inner[block * inner + (first * PANEL + k) * height + row] = out[row * STRIDE + k]


@njit(error_model="numpy")
def project_head(cells: Cells, matrix: Matrix, work: Work, thread: int) -> None:
    """Logits of the wanted rows, whose normed states are in `work.inputs`."""
    out, rows = work.panels[thread], work.logits.shape[0]
    panels = matrix.panels.shape[1]
    while True:
        first = next_task(cells) * MOST_PANELS
        if first >= panels:
            return
        count = min(MOST_PANELS, panels - first)
        for block in range(0, rows, ROWS):
            height = min(ROWS, rows - block)
            _multiply(matrix, 0, first, count, work.inputs, block, height, out, 0)
            for row in range(height):
                for k in range(count * PANEL):
                    work.logits[block + row, first * PANEL + k] = out[row * STRIDE + k]
