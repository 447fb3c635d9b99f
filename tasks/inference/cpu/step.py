"""The whole step as one function: every thread of a team runs it from the embeddings to the logits."""

import numpy as np
from numba import njit

from tasks.inference.cpu.kernels import attend, embed, normalise, place, store_row
from tasks.inference.cpu.products import DOWN, OUTPUT, QKV, UP, adapt_down, project, project_head, project_up
from tasks.inference.cpu.records import Adapters, Array, Batch, Model, Work
from tasks.inference.cpu.team import Cells, barrier, next_task


@njit(error_model="numpy")
def _embed_rows(cells: Cells, model: Model, batch: Batch, work: Work) -> None:
    row = next_task(cells)
    while row < batch.token_ids.size:
        embed(model.embedding, batch.token_ids[row], work.states[row])
        row = next_task(cells)


@njit(error_model="numpy")
def _normalise_rows(cells: Cells, work: Work, weight: Array, epsilon: float) -> None:
    rows, width = work.states.shape
    row = next_task(cells)
    while row < rows:
        first, step = place(row, rows, width)
        normalise(work.states[row], weight, epsilon, work.inputs, first, step)
        row = next_task(cells)


@njit(error_model="numpy")
def _normalise_wanted(cells: Cells, work: Work, batch: Batch, weight: Array, epsilon: float) -> None:
    rows, width = batch.wanted.size, work.states.shape[1]
    wanted = next_task(cells)
    while wanted < rows:
        first, step = place(wanted, rows, width)
        normalise(work.states[batch.wanted[wanted]], weight, epsilon, work.inputs, first, step)
        wanted = next_task(cells)


@njit(error_model="numpy")
def _store_rows(cells: Cells, model: Model, batch: Batch, work: Work, keys: Array, values: Array) -> None:
    row = next_task(cells)
    while row < batch.token_ids.size:
        store_row(model, batch, row, work.qkv[row], keys, values)
        row = next_task(cells)


@njit(error_model="numpy")
def _attend_rows(  # noqa: PLR0913
    cells: Cells, model: Model, batch: Batch, work: Work, keys: Array, values: Array, thread: int
) -> None:
    """A task is one head of one row. The answers, interleaved, are the output product's inputs."""
    rows, size = batch.token_ids.size, keys.shape[2]
    group = model.heads // model.kv_heads
    mixed = work.panels[thread, :size]
    task = next_task(cells)
    while task < rows * model.heads:
        row, head = divmod(task, model.heads)
        begin, end, source = batch.begins[row], batch.slots[row] + 1, head // group
        query = work.qkv[row, head * size : (head + 1) * size]
        total = attend(query, keys[source, begin:end], values[source, begin:end], work.scores[thread], mixed)
        first, step = place(row, rows, model.heads * size)
        for k in range(size):
            work.inputs[first + (head * size + k) * step] = mixed[k] / total
        task = next_task(cells)


def run_step(  # noqa: PLR0913
    thread: int,
    threads: int,
    cells: Cells,
    model: Model,
    adapters: Adapters,
    batch: Batch,
    work: Work,
    keys: Array,
    values: Array,
) -> None:
    """Compute one step with `threads` threads, of which this is number `thread`. `keys`, `values`: the arena's."""
    width = work.states.shape[1]
    heads_width = model.heads * keys.shape[3]
    inner = model.down.panels.shape[2]
    adapted = batch.runs.shape[0] > 0
    _embed_rows(cells, model, batch, work)
    barrier(cells, threads)
    for layer in range(keys.shape[0]):
        _normalise_rows(cells, work, model.attention_norms[layer], model.epsilon)
        barrier(cells, threads)
        if adapted:
            adapt_down(cells, adapters, batch, work, layer, QKV, work.inputs, width, thread)
            barrier(cells, threads)
        project(cells, model.qkv, adapters, batch, work, layer, QKV, work.inputs, work.qkv, thread)
        barrier(cells, threads)
        _store_rows(cells, model, batch, work, keys[layer], values[layer])
        barrier(cells, threads)
        _attend_rows(cells, model, batch, work, keys[layer], values[layer], thread)
        barrier(cells, threads)
        if adapted:
            adapt_down(cells, adapters, batch, work, layer, OUTPUT, work.inputs, heads_width, thread)
            barrier(cells, threads)
        project(cells, model.output, adapters, batch, work, layer, OUTPUT, work.inputs, work.states, thread)
        barrier(cells, threads)
        _normalise_rows(cells, work, model.mlp_norms[layer], model.epsilon)
        barrier(cells, threads)
        if adapted:
            adapt_down(cells, adapters, batch, work, layer, UP, work.inputs, width, thread)
            barrier(cells, threads)
        project_up(cells, model.up, adapters, batch, work, layer, inner, thread)
        barrier(cells, threads)
        if adapted:
            adapt_down(cells, adapters, batch, work, layer, DOWN, work.inner, inner, thread)
            barrier(cells, threads)
        project(cells, model.down, adapters, batch, work, layer, DOWN, work.inner, work.states, thread)
        barrier(cells, threads)
    if batch.wanted.size:
        _normalise_wanted(cells, work, batch, model.final_norm, model.epsilon)
        barrier(cells, threads)
        project_head(cells, model.head, work, thread)
    barrier(cells, threads)
