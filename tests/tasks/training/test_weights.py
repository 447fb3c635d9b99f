"""The loss of weighted tokens: sum(weight · nll) / sum(weight) over the step, however the step is cut."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from configs.recipe import TrainingRecipe
from tasks.training.adapter import trainable_weights
from tasks.training.batch import collate
from tasks.training.packed.batch import pack
from tasks.training.planning import StepPlan
from tasks.training.step_backend import choose_backend, held_out_loss
from tests.tasks.training import test_devices
from tests.tasks.training.job import Recorder, Row, adapter_bytes, load_adapted, make_rows, run
from tests.tasks.training.test_loss import shaken

RECIPE = TrainingRecipe(epochs=2, batch_size=4, learning_rate=1e-2, lora_r=4, lora_dropout=0.0, eval_every=3)


def weighted_rows(count: int, seed: int = 7) -> list[Row]:
    """Every third row without weights; in the others each label has one of its own."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, row in enumerate(make_rows(count, seed)):
        drawn = (0.1 + 3 * torch.rand(len(row.labels), generator=generator)).tolist()
        weights = [weight if label != -100 else 0.0 for weight, label in zip(drawn, row.labels, strict=True)]
        rows.append(row if number % 3 == 0 else replace(row, weights=weights))
    return rows


def defined_loss(model, rows):
    """The definition, a token at a time, in double precision: the weighted sum, and the sum of the weights."""
    total, weight = torch.zeros((), dtype=torch.float64), 0.0
    for row in rows:
        logits = model(torch.tensor([row.input_ids])).logits[0].double()
        for place, label in enumerate(row.labels[1:]):
            if label != -100:
                counts = 1.0 if row.weights is None else row.weights[place + 1]
                total = total + counts * cross_entropy(logits[place], torch.tensor(label))
                weight += counts
    return total, weight


@pytest.mark.parametrize("rows_at_once", [6, 2, 1])
@pytest.mark.parametrize(("name", "backend_name"), [("tiny-llama", "packed"), ("tiny-gpt2", "padded")])
def test_loss_and_gradient_are_those_of_the_definition(tiny_models_dir, name, backend_name, rows_at_once):
    rows = weighted_rows(6)
    ours, theirs = shaken(tiny_models_dir / name), shaken(tiny_models_dir / name)
    total, weight = defined_loss(theirs, rows)
    (total / weight).backward()
    backend = choose_backend(ours, 0)
    assert backend.name == backend_name
    batches = [backend.batch(rows[start : start + rows_at_once]) for start in range(0, 6, rows_at_once)]
    assert sum(batch.weight for batch in batches) == pytest.approx(weight)
    found = sum(backend.accumulate(batch, weight) for batch in batches)
    assert found == pytest.approx(total.item(), rel=1e-5)
    for (key, one), other in zip(trainable_weights(ours).items(), trainable_weights(theirs).values(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5, msg=key)
    assert held_out_loss(backend, ours, rows, rows_at_once) == pytest.approx(total.item() / weight, rel=1e-5)


def test_rows_without_weights_carry_none():
    """They take the code that they took before there were weights, and so give the same bits."""
    rows = make_rows(4)
    for batch in (collate(rows, 0), pack(rows)):
        assert batch.weights is None
        assert batch.weight == batch.labelled


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_equal_weights_train_as_none(tiny_models_dir, tmp_path, name):
    plain, halves = Recorder(), Recorder()
    rows = [replace(row, weights=[0.5 * (label != -100) for label in row.labels]) for row in make_rows(14)]
    for recorder, those in ((plain, None), (halves, rows)):
        model = load_adapted(tiny_models_dir / name, RECIPE)
        run(model, RECIPE, tmp_path / str(those is None), recorder, rows=those)
    for one, other in zip(plain.records, halves.records, strict=True):
        assert (one.loss, one.grad_norm) == pytest.approx((other.loss, other.grad_norm), rel=1e-4)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_paused_weighted_run_equals_an_uninterrupted_one(tiny_models_dir, tmp_path, name):
    recipe = RECIPE.model_copy(update={"lora_dropout": 0.2})
    rows, held_out = weighted_rows(14), weighted_rows(5, seed=8)
    whole, paused = Recorder(), Recorder()
    model = load_adapted(tiny_models_dir / name, recipe)
    run(model, recipe, tmp_path / "whole", whole, rows=rows, held_out=held_out)
    expected = adapter_bytes(model, tmp_path / "whole-adapter")
    for pause_after in (1, 4, None):
        paused.pause_after = pause_after
        model = load_adapted(tiny_models_dir / name, recipe)
        run(model, recipe, tmp_path / "paused", paused, rows=rows, held_out=held_out)
    assert (paused.trace(), paused.events) == (whole.trace(), whole.events)
    assert adapter_bytes(model, tmp_path / "paused-adapter") == expected


def test_weighted_run_in_smaller_batches_is_the_same(tiny_llama_dir, tmp_path):
    rows, held_out = weighted_rows(14), weighted_rows(5, seed=8)
    one, many = Recorder(), Recorder()
    for recorder, plan in ((one, StepPlan(4)), (many, StepPlan(1))):
        model = load_adapted(tiny_llama_dir, RECIPE)
        run(model, RECIPE, tmp_path / str(plan), recorder, rows=rows, held_out=held_out, plan=plan)
    for found, wanted in zip(many.records, one.records, strict=True):
        assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=1e-4)


def test_two_processes_weigh_as_one_does(tiny_llama_dir, tmp_path):
    recipe = test_devices.RECIPE.model_copy(update={"lora_dropout": 0.0})
    rows, held_out = weighted_rows(14), weighted_rows(5, seed=8)
    two, one = Recorder(), Recorder()
    _, shared = test_devices.run(tiny_llama_dir, recipe, tmp_path / "two", two, rows=rows, held_out=held_out)
    single = recipe.model_copy(update={"devices": 1})
    _, alone = test_devices.run(tiny_llama_dir, single, tmp_path / "one", one, rows=rows, held_out=held_out)
    assert shared.eval_loss == pytest.approx(alone.eval_loss, rel=1e-5)
    for found, wanted in zip(two.records, one.records, strict=True):
        assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=1e-4)
