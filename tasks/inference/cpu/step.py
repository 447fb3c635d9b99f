"""The whole step as one function: every thread of a team runs it from the embeddings to the logits."""

from tasks.inference.cpu.kernel import kernel
from tasks.inference.cpu.kernels import attend, embed, normalise, place, store_row
from tasks.inference.cpu.products import DOWN, HEAD, OUTPUT, QKV, UP, adapt_down, project
from tasks.inference.cpu.records import Adapters, Array, Batch, Model, Work
from tasks.inference.cpu.team import Cells, barrier, next_task


@kernel
def _embed_rows(cells: Cells, model: Model, batch: Batch, work: Work) -> None:
    row = next_task(cells)
    while row < batch.token_ids.size:
        embed(model.embedding, batch.token_ids[row], work.states[row])
        row = next_task(cells)


@kernel
def _normalise_rows(cells: Cells, work: Work, weight: Array, epsilon: float) -> None:
    rows, width = work.states.shape
    row = next_task(cells)
    while row < rows:
        first, step = place(row, rows, width)
        normalise(work.states[row], weight, epsilon, work.inputs, first, step)
        row = next_task(cells)


@kernel
def _normalise_wanted(cells: Cells, work: Work, batch: Batch, weight: Array, epsilon: float) -> None:
    rows, width = batch.wanted.size, work.states.shape[1]
    wanted = next_task(cells)
    while wanted < rows:
        first, step = place(wanted, rows, width)
        normalise(work.states[batch.wanted[wanted]], weight, epsilon, work.inputs, first, step)
        wanted = next_task(cells)


@kernel
def _store_rows(cells: Cells, model: Model, batch: Batch, work: Work, keys: Array, values: Array) -> None:
    row = next_task(cells)
    while row < batch.token_ids.size:
        store_row(model, batch, row, work.qkv[row], keys, values)
        row = next_task(cells)


@kernel
def _attend_rows(cells: Cells, model: Model, batch: Batch, work: Work, keys: Array, values: Array, thread: int) -> None:
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


@kernel
def _fill_inputs(
    cells: Cells,
    threads: int,
    model: Model,
    batch: Batch,
    work: Work,
    layer: int,
    product: int,
    keys: Array,
    values: Array,
    thread: int,
) -> None:
    """Write what a layer's product multiplies to `work.inputs` (the MLP's second product has its inputs already)."""
    if product == QKV:
        _normalise_rows(cells, work, model.attention_norms[layer], model.epsilon)
    elif product == UP:
        _normalise_rows(cells, work, model.mlp_norms[layer], model.epsilon)
    elif product == OUTPUT:
        _store_rows(cells, model, batch, work, keys[layer], values[layer])
        barrier(cells, threads)
        _attend_rows(cells, model, batch, work, keys[layer], values[layer], thread)


def run_step(
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
    out, rows = work.panels[thread], batch.token_ids.size
    _embed_rows(cells, model, batch, work)
    barrier(cells, threads)
    for number in range(4 * keys.shape[0] + 1):
        layer, product = number // 4, number % 4
        matrix, inputs, target = model.matrices[product], work.inputs, work.states
        if number == 4 * keys.shape[0]:
            layer, product, matrix, target, rows = 0, HEAD, model.matrices[HEAD], work.logits, batch.wanted.size
            _normalise_wanted(cells, work, batch, model.final_norm, model.epsilon)
            barrier(cells, threads)
        elif product == DOWN:
            inputs = work.inner
        else:
            _fill_inputs(cells, threads, model, batch, work, layer, product, keys, values, thread)
            barrier(cells, threads)
        if batch.runs.shape[0] and product != HEAD:
            adapt_down(cells, adapters, batch, layer, product, inputs, matrix.inputs, work.low, out)
            barrier(cells, threads)
        outputs = target.shape[1]
        if product == QKV:
            target, outputs = work.qkv, work.qkv.shape[1]
        elif product == UP:
            outputs = model.matrices[DOWN].inputs
        project(
            cells, matrix, adapters, batch, layer, product, inputs, work.low, work.inner, target, outputs, rows, out
        )
        barrier(cells, threads)
