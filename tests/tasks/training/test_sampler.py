"""The sampler shows every row once an epoch, in an order that only seed, epoch and row count decide."""

from itertools import islice

import pytest
import torch

from configs.recipe import TrainingRecipe
from tasks.training.sampler import Cursor, epoch_order, step_batches, steps_per_epoch, total_epochs, total_steps

RECIPE = TrainingRecipe(batch_size=3, gradient_accumulation=2, epochs=4)


@pytest.mark.parametrize("n_rows", [1, 5, 6, 7, 50])
def test_an_epoch_has_every_row_once(n_rows):
    per_epoch = steps_per_epoch(RECIPE, n_rows)
    batches = list(islice(step_batches(RECIPE, n_rows, Cursor()), 3 * per_epoch))
    orders = []
    for epoch in range(3):
        steps = batches[epoch * per_epoch : (epoch + 1) * per_epoch]
        rows = [row for ids, _ in steps for row in ids]
        assert sorted(rows) == list(range(n_rows))
        assert all(len(ids) == 6 for ids, _ in steps[:-1])
        assert steps[-1][1] == Cursor(epoch + 1, 0, (epoch + 1) * per_epoch)
        orders.append(rows)
    assert n_rows == 1 or orders[0] != orders[1] or orders[1] != orders[2]


def test_any_cursor_continues_the_same_sequence():
    batches = list(islice(step_batches(RECIPE, 20, Cursor()), 12))
    for done in range(1, 12):
        assert list(islice(step_batches(RECIPE, 20, batches[done - 1][1]), 12 - done)) == batches[done:]


def test_the_order_depends_on_seed_epoch_and_rows_only():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = epoch_order(42, 0, 30)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert epoch_order(42, 0, 30) == first
    assert first not in (epoch_order(43, 0, 30), epoch_order(42, 1, 30), epoch_order(42, 0, 31)[:30])


def test_max_steps_overrules_epochs_both_ways():
    assert (total_steps(RECIPE, 20), total_epochs(RECIPE, 20)) == (16, 4)
    short, long = RECIPE.model_copy(update={"max_steps": 5}), RECIPE.model_copy(update={"max_steps": 33})
    assert (total_steps(short, 20), total_epochs(short, 20)) == (5, 2)
    assert (total_steps(long, 20), total_epochs(long, 20)) == (33, 9)
