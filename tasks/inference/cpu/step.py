"""The whole step as one function: every thread of a team runs it from the embeddings to the logits."""

from tasks.inference.cpu.kernel import kernel
from tasks.inference.cpu.kernels import attend, embed, normalise, place, put, store_row
from tasks.inference.cpu.products import DOWN, HEAD, OUTPUT, QKV, UP, adapt_down, product_tasks, project
from tasks.inference.cpu.records import Adapters, Array, Batch, Model, Work
from tasks.inference.cpu.team import Cells, claim_task, is_last, is_of, open_phase, phase_of, ticket_now

# A layer's phases. Every product comes after its adapters' down products, which are none in most steps.
_NORM, _ADAPT, _STORE, _ATTEND, _PROJECT, _EMBED, _NORM_LAST = range(7)
_PHASES = (
    (_NORM, QKV),
    (_ADAPT, QKV),
    (_PROJECT, QKV),
    (_STORE, QKV),
    (_ATTEND, OUTPUT),
    (_ADAPT, OUTPUT),
    (_PROJECT, OUTPUT),
    (_NORM, UP),
    (_ADAPT, UP),
    (_PROJECT, UP),
    (_ADAPT, DOWN),
    (_PROJECT, DOWN),
)


@kernel
def _phase(number: int, layers: int) -> tuple[int, int, int]:
    """What a phase does, for which product and in which layer."""
    if number == 0:
        return _EMBED, QKV, 0
    layer, within = (number - 1) // len(_PHASES), (number - 1) % len(_PHASES)
    if layer == layers:
        return (_NORM_LAST, HEAD, 0) if within == 0 else (_PROJECT, HEAD, 0)
    return _PHASES[within][0], _PHASES[within][1], layer


@kernel
def _tasks(number: int, layers: int, model: Model, batch: Batch) -> int:
    """How many tasks a phase has; none: it is passed over."""
    kind, product, _ = _phase(number, layers)
    if kind == _ADAPT:
        return batch.runs.shape[0]
    if kind == _NORM_LAST or (product == HEAD and batch.wanted.size == 0):
        return batch.wanted.size
    if kind == _PROJECT:
        return product_tasks(model.matrices[product], product)
    return batch.token_ids.size * model.heads if kind == _ATTEND else batch.token_ids.size


@kernel
def _attend(task: int, model: Model, batch: Batch, work: Work, keys: Array, values: Array, thread: int) -> None:
    """One head of one row. The answers, interleaved, are the output product's inputs."""
    rows, size = batch.token_ids.size, keys.shape[2]
    row, head = task // model.heads, task % model.heads
    begin, end, source = batch.begins[row], batch.slots[row] + 1, head // (model.heads // model.kv_heads)
    query, mixed = work.qkv[row, head * size : (head + 1) * size], work.panels[thread, :size]
    total = attend(query, keys[source, begin:end], values[source, begin:end], work.scores[thread], mixed)
    first, step = place(row, rows, model.heads * size, work.inputs)
    for k in range(size):
        put(mixed[k] / total, work.inputs, first, step, head * size + k)


@kernel
def _normalise(task: int, row: int, rows: int, weight: Array, epsilon: float, work: Work) -> None:
    first, step = place(task, rows, work.states.shape[1], work.inputs)
    normalise(work.states[row], weight, epsilon, work.inputs, first, step)


@kernel
def _project(
    task: int, layer: int, product: int, model: Model, adapters: Adapters, batch: Batch, work: Work, thread: int
) -> None:
    inputs, target, rows = work.inputs, work.states, batch.token_ids.size
    outputs = target.shape[1]
    if product == QKV:
        target, outputs = work.qkv, work.qkv.shape[1]
    elif product == UP:
        outputs = model.matrices[DOWN].inputs
    elif product == DOWN:
        inputs = work.inner
    elif product == HEAD:
        target, outputs, rows = work.logits, work.logits.shape[1], batch.wanted.size
    matrix, out = model.matrices[product], work.panels[thread]
    project(task, matrix, adapters, batch, layer, product, inputs, work.low, work.inner, target, outputs, rows, out)


@kernel
def _compute(
    phase: int,
    task: int,
    model: Model,
    adapters: Adapters,
    batch: Batch,
    work: Work,
    keys: Array,
    values: Array,
    thread: int,
) -> None:
    """One task."""
    kind, product, layer = _phase(phase, keys.shape[0])
    rows = batch.token_ids.size
    if kind == _PROJECT:
        _project(task, layer, product, model, adapters, batch, work, thread)
    elif kind == _ATTEND:
        _attend(task, model, batch, work, keys[layer], values[layer], thread)
    elif kind == _NORM:
        weight = model.attention_norms[layer] if product == QKV else model.mlp_norms[layer]
        _normalise(task, task, rows, weight, model.epsilon, work)
    elif kind == _STORE:
        store_row(model, batch, task, work.qkv[task], keys[layer], values[layer])
    elif kind == _ADAPT:
        inputs, depth = work.inner if product == DOWN else work.inputs, model.matrices[product].inputs
        adapt_down(task, adapters, batch, layer, product, inputs, depth, work.low, work.panels[thread])
    elif kind == _EMBED:
        embed(model.embedding, batch.token_ids[task], work.states[task])
    else:
        _normalise(task, batch.wanted[task], batch.wanted.size, model.final_norm, model.epsilon, work)


def run_step(
    thread: int,
    step: int,
    cells: Cells,
    model: Model,
    adapters: Adapters,
    batch: Batch,
    work: Work,
    keys: Array,
    values: Array,
) -> None:
    """Compute tasks of this step, beside the team's other threads, until it is done. `keys`, `values`: the arena's."""
    layers = keys.shape[0]
    end = 1 + layers * len(_PHASES) + 2
    while True:
        ticket = ticket_now(cells)
        phase = phase_of(ticket)
        if phase == end or not is_of(ticket, step):
            return
        tasks = _tasks(phase, layers, model, batch)
        task = claim_task(cells, ticket, tasks)
        if task < 0:
            continue
        _compute(phase, task, model, adapters, batch, work, keys, values, thread)
        if is_last(cells, tasks):
            phase += 1
            while phase < end and _tasks(phase, layers, model, batch) == 0:
                phase += 1
            open_phase(cells, step, phase)
