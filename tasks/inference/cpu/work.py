"""Scratch memory of a step, kept from step to step, and the step's batch as plain arrays."""

from collections.abc import Sequence

import numpy as np

from tasks.inference.cpu.packing import aligned
from tasks.inference.cpu.panel_product import ROWS
from tasks.inference.cpu.products import STRIDE
from tasks.inference.cpu.records import Array, Batch, Model, Work
from tasks.inference.network.step import StepBatch

_SCORES = 256
"""Scores grow by so many positions at a time."""


class Scratch:
    """Memory for the largest step so far."""

    def __init__(self, model: Model, threads: int, activation: type) -> None:
        """`activation`: the element type of what goes into products, float32 or uint16 (bfloat16 in pairs)."""
        self._width = model.final_norm.size
        qkv, output, _, down, head = model.matrices
        self._heads_width, self._inner = output.inputs, down.inputs
        self._qkv_width, self._vocabulary = qkv.bias.shape[1], head.bias.shape[1]
        self._memory: dict[str, Array] = {}
        self._activation = activation
        self._threads = threads

    def fit(self, rows: int, wanted: int, length: int, low_depth: int) -> Work:
        """Memory for so many rows and wanted logits, a longest sequence of `length`, and adapters of `low_depth`."""
        whole = -(-rows // ROWS) * ROWS
        longest = -(-length // _SCORES) * _SCORES
        return Work(
            states=self._get("states", rows * self._width).reshape(rows, self._width),
            qkv=self._get("qkv", rows * self._qkv_width).reshape(rows, self._qkv_width),
            inputs=self._get("inputs", whole * max(self._width, self._heads_width), self._activation),
            inner=self._get("inner", whole * self._inner, self._activation),
            low=self._get("low", whole * low_depth, self._activation),
            scores=self._get("scores", self._threads * longest).reshape(self._threads, longest),
            panels=self._get("panels", self._threads * 3 * ROWS * STRIDE).reshape(self._threads, -1),
            logits=aligned((wanted, self._vocabulary), np.float32),  # leaves with the caller
        )

    def _get(self, name: str, size: int, element: type = np.float32) -> Array:
        if name not in self._memory or self._memory[name].size < size:
            self._memory[name] = aligned((size,), element)
        return self._memory[name][:size]


def plain_batch(batch: StepBatch, slots: Sequence[int]) -> Batch:
    """The step as a row for each token. `slots`: every sequence's adapter in memory, -1 for none."""
    first = batch.first.numpy()
    counts = np.diff(first)
    begins = np.repeat(batch.cache_start.numpy(), counts)
    sequence_first = np.repeat(first[:-1].astype(np.int64), counts)
    rows = np.arange(first[-1])
    runs, run_of_block = _runs(np.repeat(np.array(slots, dtype=np.int64), counts))
    return Batch(
        token_ids=np.ascontiguousarray(batch.token_ids.numpy()),
        positions=np.ascontiguousarray(batch.positions.numpy()),
        begins=begins,
        slots=begins + np.repeat(batch.cached.numpy(), counts) + rows - sequence_first,
        wanted=np.flatnonzero(batch.wants_logits.numpy()).astype(np.int64),
        runs=runs,
        run_of_block=run_of_block,
    )


def _runs(slot_of_row: Array) -> tuple[Array, Array]:
    """Runs of adjacent rows of a block with the same adapter, and the first run of every block."""
    rows = np.arange(len(slot_of_row))
    starts = np.flatnonzero((rows % ROWS == 0) | np.concatenate(([True], slot_of_row[1:] != slot_of_row[:-1])))
    lengths = np.diff(np.append(starts, len(rows)))
    runs = np.stack((starts, lengths, slot_of_row[starts]), axis=1).astype(np.int64)[slot_of_row[starts] >= 0]
    blocks = np.arange(0, len(rows) + ROWS, ROWS)
    return np.ascontiguousarray(runs), np.searchsorted(runs[:, 0], blocks).astype(np.int64)
