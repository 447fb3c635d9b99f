"""What the compiled step reads and writes: arrays with names, as numba takes them."""

from typing import Any, NamedTuple

import numpy.typing as npt

Array = npt.NDArray[Any]


class Matrix(NamedTuple):
    """One product of every layer, packed. Outputs are padded to whole panels, part by part."""

    panels: Array
    """`[layers, panels, inputs, 32]`: uint16 (bfloat16, maybe in pairs of inputs) or float32; int8 with two rows of
    scales before 32 inputs."""
    bias: Array
    """float32 `[layers, panels * 32]`."""
    inputs: int


class Model(NamedTuple):
    """The weights of a decoder of the Llama family. Numbers that are not packed lie as in the cache."""

    embedding: Array
    attention_norms: Array
    """float32 `[layers, width]`."""
    mlp_norms: Array
    final_norm: Array
    cosines: Array
    """float32 `[positions, head_dim / 2]`."""
    sines: Array
    matrices: tuple[Matrix, Matrix, Matrix, Matrix, Matrix]
    """qkv, output, gate and up, down; the head as the one layer of the last."""
    heads: int
    kv_heads: int
    epsilon: float


class Batch(NamedTuple):
    """One step's tokens, a row each. Rows of one adapter inside a block of rows are a run."""

    token_ids: Array
    positions: Array
    begins: Array
    """int64: where in the arena the row's sequence begins."""
    slots: Array
    """int64: where in the arena the row's own key and value go."""
    wanted: Array
    """int64: the rows after which logits are wanted."""
    runs: Array
    """int64 `[runs, 3]`: first row, number of rows, adapter; empty if no row has one."""
    run_of_block: Array
    """int64 `[blocks + 1]`: the first run of every block."""


class Adapters(NamedTuple):
    """Where the adapters' packed factors lie. Ranks are padded to whole panels in `downs` only."""

    like: Array
    """Empty, of the factors' element type."""

    downs: Array
    """int64 `[adapters, layers, 4 products, 2]`: address and number of panels of the down factor."""
    ups: Array
    """int64 `[adapters, layers, 7 parts, 3]`: address of the up factor, its rank, and its first rank in the product."""
    part_panels: Array
    """int64 `[7 + 1]`: the first panel of every part within its product."""


class Work(NamedTuple):
    """Scratch memory for a number of rows."""

    states: Array
    """float32 `[rows, width]`: the residual stream."""
    qkv: Array
    """float32 `[rows, panels of qkv * 32]`."""
    inputs: Array
    """float32 or bfloat16, flat: the next product's activations, interleaved in blocks."""
    inner: Array
    """The same: the MLP's activations."""
    low: Array
    """The same: the adapters' down products."""
    scores: Array
    """float32 `[threads, positions]`."""
    panels: Array
    """float32 `[threads, 3 * ROWS * 4 * 32]`: a task's products."""
    logits: Array
    """float32 `[wanted, panels of the head * 32]`."""
