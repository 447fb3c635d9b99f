"""Which rows each optimizer step sees: a function of the seed and an explicit cursor, so a resume skips nothing."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from configs.recipe import TrainingRecipe


@dataclass(frozen=True)
class Cursor:
    """How far a run has come: `epoch` from 0, `position` in rows of that epoch's order, `step` updates done."""

    epoch: int = 0
    position: int = 0
    step: int = 0


def epoch_order(seed: int, epoch: int, n_rows: int) -> list[int]:
    """Return the permutation of `range(n_rows)` for one epoch; it depends on no other random state."""
    digest = hashlib.sha256(f"{seed}/{epoch}/{n_rows}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
    order: list[int] = torch.randperm(n_rows, generator=generator).tolist()
    return order


def rows_per_step(recipe: TrainingRecipe) -> int:
    """Return the rows of one optimizer step; an epoch's last step may have fewer."""
    return recipe.batch_size * recipe.gradient_accumulation


def steps_per_epoch(recipe: TrainingRecipe, n_rows: int) -> int:
    """Return the optimizer steps of one pass over `n_rows` rows; the last one may be small, none is dropped."""
    return math.ceil(n_rows / rows_per_step(recipe))


def total_steps(recipe: TrainingRecipe, n_rows: int) -> int:
    """Return the optimizer steps of the run: `max_steps` if set, whatever `epochs` says, else all epochs' steps."""
    return recipe.max_steps or recipe.epochs * steps_per_epoch(recipe, n_rows)


def total_epochs(recipe: TrainingRecipe, n_rows: int) -> int:
    """Return the passes begun by the run's last step."""
    return math.ceil(total_steps(recipe, n_rows) / steps_per_epoch(recipe, n_rows))


def step_batches(recipe: TrainingRecipe, n_rows: int, cursor: Cursor) -> Iterator[tuple[list[int], Cursor]]:
    """Yield, without end, the row indices of each optimizer step after `cursor` and the cursor behind it."""
    while True:
        order = epoch_order(recipe.seed, cursor.epoch, n_rows)
        while cursor.position < n_rows:
            rows = order[cursor.position : cursor.position + rows_per_step(recipe)]
            cursor = Cursor(cursor.epoch, cursor.position + len(rows), cursor.step + 1)
            if cursor.position == n_rows:
                cursor = Cursor(cursor.epoch + 1, 0, cursor.step)
            yield rows, cursor
            if cursor.position == 0:
                break
