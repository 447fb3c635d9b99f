"""Windows of texts and of conversations train, pause, resume and are shared by devices like any rows."""

import pytest
from transformers import AutoTokenizer

from tasks.data.examples import Example, Message
from tasks.data.prepared import PreparedRows, prepare_training
from tasks.data.rows import ListedExamples
from tasks.training.observer import TrainOutcome
from tests.tasks.training import test_devices
from tests.tasks.training.job import Recorder, adapter_bytes, load_adapted, run
from tests.tasks.training.test_resume import RECIPE


def prepare(folder, cache) -> PreparedRows:
    """Texts, and conversations with and without weights, most of them longer than a row."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    examples = [Example(text=f"Document {n}. " + "The quick brown fox. " * n) for n in range(8)]
    for n in range(8):
        turns = (
            (Message("user", f"q{n}.{place}"), Message("assistant", f"a{place}", weight=1 + n % 2))
            for place in range(n + 1)
        )
        examples.append(Example(tuple(turn for both in turns for turn in both)))
    return prepare_training(ListedExamples(examples), tokenizer, 96, cache, "split", held_out_fraction=0.25)


def train(model, recipe, folder, recorder, data: PreparedRows) -> TrainOutcome:
    """Train on the prepared rows."""
    rows, held_out, fingerprint = data.train, data.held_out, data.fingerprint
    return run(model, recipe, folder, recorder, rows=rows, held_out=held_out, fingerprint=fingerprint)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_paused_run_on_windows_equals_an_uninterrupted_one(tiny_models_dir, tmp_path, name):
    recipe = RECIPE.model_copy(update={"epochs": 1, "cut_rows": "split"})
    data = prepare(tiny_models_dir / "tiny-llama", tmp_path / "cache")
    assert data.report.train_windows > data.report.train_rows
    assert any(row.weights for row in data.train)
    whole, paused = Recorder(), Recorder()
    model = load_adapted(tiny_models_dir / name, recipe)
    outcome = train(model, recipe, tmp_path / "whole", whole, data)
    assert outcome.total_steps == -(-data.report.train_windows // 4)
    expected = adapter_bytes(model, tmp_path / "whole-adapter")
    for pause_after in (1, 3, None):
        paused.pause_after = pause_after
        again = prepare(tiny_models_dir / "tiny-llama", tmp_path / "cache")
        assert again.fingerprint == data.fingerprint
        model = load_adapted(tiny_models_dir / name, recipe)
        train(model, recipe, tmp_path / "paused", paused, again)
    assert (paused.trace(), paused.events) == (whole.trace(), whole.events)
    assert adapter_bytes(model, tmp_path / "paused-adapter") == expected


def test_two_processes_read_the_windows_that_one_does(tiny_llama_dir, tmp_path):
    recipe = test_devices.RECIPE.model_copy(update={"lora_dropout": 0.0, "epochs": 1})
    data = prepare(tiny_llama_dir, tmp_path / "cache")
    two, one = Recorder(), Recorder()
    for recorder, devices in ((two, 2), (one, 1)):
        shared = recipe.model_copy(update={"devices": devices})
        folder = tmp_path / str(devices)
        test_devices.run(tiny_llama_dir, shared, folder, recorder, rows=data.train, held_out=data.held_out)
    for found, wanted in zip(two.records, one.records, strict=True):
        assert (found.tokens, found.sample_ids) == (wanted.tokens, wanted.sample_ids)
        assert (found.loss, found.grad_norm) == pytest.approx((wanted.loss, wanted.grad_norm), rel=1e-4)
