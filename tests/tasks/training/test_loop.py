"""The loop learns, accumulates gradients exactly, leaves nothing behind, and says what to change when it fails."""

import pickle

import pytest
import torch

from configs.recipe import FinetuneParameters, TrainingRecipe
from tasks.training.adapter import trainable_weights
from tasks.training.errors import NonFiniteLoss, OutOfMemory, RowError
from tasks.training.memory import memory_errors
from tasks.training.planning import StepPlan
from tasks.training.snapshot import run_identity
from tasks.training.step_backend import choose_backend
from tests.tasks.training.job import Recorder, Row, adapter_bytes, load_adapted, make_rows, run

RECIPE = TrainingRecipe(epochs=2, batch_size=4, learning_rate=1e-2, lora_r=4, lora_dropout=0.1)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_it_learns_a_small_set_by_heart(tiny_models_dir, tmp_path, name):
    recipe = RECIPE.model_copy(update={"epochs": 150, "lora_dropout": 0.0, "lora_r": 16})
    recorder, rows, model = Recorder(), make_rows(4), load_adapted(tiny_models_dir / name, recipe)
    with torch.no_grad():
        # Vectors this short, untrained, can't give a sharp answer whatever the layers before the head learn.
        model.get_input_embeddings().weight.mul_(20)
    outcome = run(model, recipe, tmp_path, recorder, rows=rows, held_out=rows)
    assert recorder.records[0].loss > 5
    assert outcome.eval_loss is not None
    assert outcome.eval_loss < 0.1 * recorder.records[0].loss


def test_the_report_of_a_run(tiny_llama_dir, tmp_path):
    recipe, recorder, rows = RECIPE.model_copy(update={"eval_every": 3}), Recorder(), make_rows(14)
    outcome = run(load_adapted(tiny_llama_dir, recipe), recipe, tmp_path, recorder, rows=rows)
    assert recorder.started_at == [0, 8, 2]
    assert [record.step for record in recorder.records] == list(range(1, 9))
    assert [record.epoch for record in recorder.records] == [1] * 4 + [2] * 4
    assert [step for kind, step, _ in recorder.events if kind == "evaluation"] == [3, 6, 8]
    assert recorder.events[-1] == ("evaluation", 8, outcome.eval_loss)
    losses = [loss for kind, _, loss in recorder.events if kind == "evaluation"]
    best = [step for number, step in enumerate((3, 6)) if losses[number] == min(losses[: number + 1])]
    assert best
    assert [path.name for path in recorder.saved] == [f"step-{step:08d}" for step in (*best, 8)]
    for record in recorder.records:
        assert record.tokens == sum(len(rows[row].input_ids) for row in record.sample_ids)
        assert record.tokens_per_second == pytest.approx(record.tokens / record.seconds)


def test_without_held_out_rows_there_is_no_evaluation(tiny_llama_dir, tmp_path):
    recorder = Recorder()
    outcome = run(load_adapted(tiny_llama_dir, RECIPE), RECIPE, tmp_path, recorder, held_out=[])
    assert outcome.eval_loss is None
    assert {kind for kind, _, _ in recorder.events} == {"step"}


def test_accumulation_equals_a_larger_batch(tiny_llama_dir, tmp_path):
    traces = []
    for batch_size, accumulation in ((8, 1), (4, 2), (3, 3), (1, 8)):
        recipe = RECIPE.model_copy(
            update={"batch_size": batch_size, "gradient_accumulation": accumulation, "lora_dropout": 0.0, "epochs": 4}
        )
        recorder = Recorder()
        rows = make_rows(8)
        run(load_adapted(tiny_llama_dir, recipe), recipe, tmp_path / f"{batch_size}", recorder, rows=rows)
        traces.append([(record.loss, record.grad_norm) for record in recorder.records])
    for trace in traces[1:]:
        for found, expected in zip(trace, traces[0], strict=True):
            assert found == pytest.approx(expected, rel=1e-4)


def test_the_same_seed_gives_the_same_run_whatever_the_process_drew_before(tiny_gpt2_dir, tmp_path):
    results = []
    for attempt in range(2):
        torch.manual_seed(attempt)
        state = torch.get_rng_state()
        model, recorder = load_adapted(tiny_gpt2_dir, RECIPE), Recorder()
        run(model, RECIPE, tmp_path / f"run{attempt}", recorder)
        assert torch.equal(torch.get_rng_state(), state)
        results.append((recorder.trace(), adapter_bytes(model, tmp_path / f"adapter{attempt}")))
    assert results[0] == results[1]


def test_evaluating_more_often_changes_nothing_in_the_training(tiny_gpt2_dir, tmp_path):
    traces = []
    for eval_every in (None, 1):
        recipe, recorder = RECIPE.model_copy(update={"eval_every": eval_every}), Recorder()
        run(load_adapted(tiny_gpt2_dir, recipe), recipe, tmp_path / str(eval_every), recorder)
        traces.append(recorder.trace())
    assert traces[0] == traces[1]


def test_poisoned_weights_are_an_error_that_names_the_step(tiny_llama_dir, tmp_path):
    model = load_adapted(tiny_llama_dir, RECIPE)
    with torch.no_grad():
        next(iter(trainable_weights(model).values())).fill_(float("nan"))
    with pytest.raises(
        NonFiniteLoss, match=r"step 1 gave loss nan .* learning rate 0\.01: lower learning_rate"
    ) as caught:
        run(model, RECIPE, tmp_path, Recorder())
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_blown_up_adapter_is_an_error(tiny_llama_dir, tmp_path):
    model = load_adapted(tiny_llama_dir, RECIPE)
    with torch.no_grad():
        for weight in trainable_weights(model).values():
            weight.fill_(1e30)
    with pytest.raises(NonFiniteLoss):
        run(model, RECIPE, tmp_path, Recorder())


def test_an_allocation_that_fails_says_what_to_lower():
    with (
        pytest.raises(OutOfMemory, match=r"lower batch_size \(now 4;.* max_seq_length \(now 512\)"),
        memory_errors(RECIPE, StepPlan(4)),
    ):
        torch.empty(2**60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), memory_errors(RECIPE, StepPlan(4)):
        torch.ones(2) @ torch.ones(3)


def test_rows_are_checked_before_anything_else(tiny_gpt2_dir, tmp_path):
    model = load_adapted(tiny_gpt2_dir, RECIPE)
    with pytest.raises(RowError, match="no row"):
        run(model, RECIPE, tmp_path, Recorder(), rows=[])
    with pytest.raises(RowError, match="200 tokens, the model takes 128"):
        run(model, RECIPE, tmp_path, Recorder(), held_out=[Row([5] * 200, [5] * 200)])
    assert not list(tmp_path.iterdir())


def test_a_jobs_name_is_no_part_of_the_runs_identity(tiny_llama_dir):
    model = load_adapted(tiny_llama_dir, RECIPE)
    backend = choose_backend(model, 0)
    named = FinetuneParameters(**RECIPE.model_dump(), model_id=3, job_name="mine")
    assert run_identity(model, named, "rows", 14, backend) == run_identity(model, RECIPE, "rows", 14, backend)
