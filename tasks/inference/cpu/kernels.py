"""The parts of a decoder layer that are no matrix products: norm, rotation, attention over the cache, SiLU."""

import numpy as np

from tasks.inference.cpu.intrinsics import exponential, narrow, widen
from tasks.inference.cpu.kernel import kernel, reducing_kernel
from tasks.inference.cpu.panel_product import PANEL, ROWS
from tasks.inference.cpu.records import Array, Batch, Model


@kernel
def together(interleaved: Array) -> int:
    """How many of a row's inputs lie side by side: two of bfloat16, one of float32."""
    return 4 // interleaved.itemsize


@kernel
def place(row: int, rows: int, depth: int, interleaved: Array) -> tuple[int, int]:
    """Where a row's input 0 lies in an interleaved array of `rows` rows with `depth` inputs; the rows of its block."""
    block = row - row % ROWS
    return block * depth + (row - block) * together(interleaved), min(ROWS, rows - block)


@kernel
def put(value: np.float32, interleaved: Array, first: int, step: int, k: int) -> None:
    """Write input k of the row whose input 0 lies at `first`, in a block of `step` rows."""
    odd = k & (together(interleaved) - 1)
    interleaved[first + (k - odd) * step + odd] = narrow(value, interleaved)


@reducing_kernel
def mean_square(values: Array) -> np.float32:
    """Mean of the squares."""
    total = np.float32(0)
    for value in values:
        total += value * value
    return total / np.float32(values.size)


@kernel
def normalise(values: Array, weight: Array, epsilon: float, out: Array, first: int, step: int) -> None:
    """RMSNorm of a row into the interleaved `out`."""
    factor = np.float32(1) / np.sqrt(mean_square(values) + np.float32(epsilon))
    for k in range(values.size):
        put(values[k] * factor * weight[k], out, first, step, k)


@kernel
def embed(table: Array, token: int, out: Array) -> None:
    """The token's embedding as float32."""
    for k in range(out.size):
        out[k] = widen(table[token, k])


@kernel
def rotate(head: Array, cosine: Array, sine: Array) -> None:
    """Rotary position embedding of one head, in place; the two halves of the head belong together."""
    half = cosine.size
    for k in range(half):
        low, high = head[k], head[half + k]
        head[k] = low * cosine[k] - high * sine[k]
        head[half + k] = high * cosine[k] + low * sine[k]


@kernel
def store_row(model: Model, batch: Batch, row: int, qkv: Array, keys: Array, values: Array) -> None:
    """Rotate a row's queries and keys; write its keys and values of one layer to the cache."""
    size, slot = keys.shape[2], batch.slots[row]
    cosine, sine = model.cosines[batch.positions[row]], model.sines[batch.positions[row]]
    for head in range(model.heads):
        rotate(qkv[head * size : (head + 1) * size], cosine, sine)
    key_at = -(-model.heads * size // PANEL) * PANEL
    value_at = key_at + -(-model.kv_heads * size // PANEL) * PANEL
    for head in range(model.kv_heads):
        key = qkv[key_at + head * size : key_at + (head + 1) * size]
        value = qkv[value_at + head * size : value_at + (head + 1) * size]
        rotate(key, cosine, sine)
        for k in range(size):
            keys[head, slot, k] = narrow(key[k], keys)
            values[head, slot, k] = narrow(value[k], values)


@reducing_kernel
def _dot(query: Array, keys: Array, j: int) -> np.float32:
    total = np.float32(0)
    for k in range(query.size):
        total += query[k] * widen(keys[j, k])
    return total


@kernel
def _softmax(scores: Array) -> np.float32:
    """Replace scores by e^(score - largest); return their sum."""
    largest = scores[0]
    for score in scores:
        largest = max(largest, score)
    for j in range(scores.size):
        scores[j] = exponential(scores[j] - largest)
    return _sum(scores)


@reducing_kernel
def _sum(values: Array) -> np.float32:
    total = np.float32(0)
    for value in values:
        total += value
    return total


@reducing_kernel
def _mix(weights: Array, values: Array, out: Array) -> None:
    """The values' sum, each times its weight; four at a time, so that `out` is read and written less."""
    out[:] = np.float32(0)
    whole = weights.size - weights.size % 4
    for j in range(0, whole, 4):
        a, b, c, d = weights[j], weights[j + 1], weights[j + 2], weights[j + 3]
        for k in range(out.size):
            first = a * widen(values[j, k]) + b * widen(values[j + 1, k])
            out[k] += first + (c * widen(values[j + 2, k]) + d * widen(values[j + 3, k]))
    for j in range(whole, weights.size):
        for k in range(out.size):
            out[k] += weights[j] * widen(values[j, k])


@kernel
def attend(query: Array, keys: Array, values: Array, scores: Array, mixed: Array) -> np.float32:
    """One head's attention over its sequence's keys and values: `mixed` over the returned number is the answer."""
    scale = np.float32(1) / np.sqrt(np.float32(query.size))
    for j in range(keys.shape[0]):
        scores[j] = _dot(query, keys, j) * scale
    total = _softmax(scores[: keys.shape[0]])
    _mix(scores[: keys.shape[0]], values, mixed)
    return total
