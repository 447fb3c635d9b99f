"""Every method goes through the same loop: it starts as the model it is given and resumes to the bit."""

import hashlib
import sys
from pathlib import Path

import pytest
import torch

from configs.recipe import Method, TrainingRecipe
from tasks.models.loading import attach_adapter, load_base_model
from tasks.training.adapter import trainable_weights
from tasks.training.errors import MethodUnavailable
from tasks.training.methods import METHODS, require_method
from tasks.training.step_backend import choose_backend
from tests.tasks.training.job import Recorder, Start, run
from tests.tiny_families import save_family

CPU = torch.device("cpu")
IDS = torch.arange(5, 25)[None]


def recipe_of(method: Method) -> TrainingRecipe:
    adapter = {} if method == "full" else {"lora_r": 4, "lora_dropout": 0.2}
    shape = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-2, "eval_every": 3}
    return TrainingRecipe(method=method, **adapter, **shape)  # type: ignore[arg-type]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def logits(model):
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


def trained(method: Method, start: Start, root: Path) -> tuple[Path, torch.Tensor]:
    """Train from `start`; return the folder with what is kept, and the trained model's logits."""
    recipe = recipe_of(method)
    model = METHODS[recipe.method].load(start, recipe)
    run(model, recipe, root / "checkpoints", Recorder(), compute_dtype=start.dtype)
    expected = logits(model)
    METHODS[recipe.method].save(model, root / "kept", start)
    return root / "kept", expected


def served(model: Start):
    base = load_base_model(model.base_folder, model.dtype, CPU)
    return base if model.adapter_folder is None else attach_adapter(base, model.adapter_folder)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("method", ["rslora", "dora", "full"])  # test_resume.py has lora
def test_a_paused_run_equals_an_uninterrupted_one(tiny_llama_dir, tmp_path, method, dtype):
    recipe, start, before = recipe_of(method), Start(tiny_llama_dir, dtype=dtype), digests(tiny_llama_dir)
    kept = []
    for pauses in ([None], [2, 5, None]):
        root, recorder = tmp_path / f"{len(pauses)}-parts", Recorder()
        for recorder.pause_after in pauses:
            model = METHODS[method].load(start, recipe)
            outcome = run(model, recipe, root / "checkpoints", recorder, compute_dtype=dtype)
            assert outcome.paused == (recorder.pause_after is not None)
        METHODS[method].save(model, root / "kept", start)
        kept.append((recorder.trace(), recorder.events, digests(root / "kept")))
        assert len({loss for _, _, loss in recorder.events}) == len(recorder.events) == 8 + 3
        assert len(list((root / "checkpoints").iterdir())) <= 3
    assert kept[0] == kept[1]
    assert digests(tiny_llama_dir) == before, "the model trained from is untouched"


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize("method", ["lora", "rslora", "dora", "full"])
def test_what_is_saved_is_the_model_that_was_trained(tiny_models_dir, tmp_path, method, name):
    start = Start(tiny_models_dir / name)
    untrained = logits(served(start))
    recipe = recipe_of(method)
    torch.testing.assert_close(logits(METHODS[method].load(start, recipe)), untrained, msg="nothing changes untrained")
    kept, expected = trained(method, start, tmp_path)
    assert (expected - untrained).abs().max() > 0.1
    torch.testing.assert_close(logits(served(start.after(method, kept))), expected)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("rslora", "lora"),
        ("lora", "rslora"),
        ("rslora", "dora"),
        ("lora", "full"),
        ("dora", "rslora"),
        ("full", "dora"),
    ],
)
def test_any_method_goes_on_from_any_other(tiny_llama_dir, tmp_path, first, second):
    start = Start(tiny_llama_dir)
    kept, expected = trained(first, start, tmp_path / "first")
    parent = start.after(first, kept)
    torch.testing.assert_close(logits(METHODS[second].load(parent, recipe_of(second))), expected)
    kept, expected = trained(second, parent, tmp_path / "second")
    torch.testing.assert_close(logits(served(parent.after(second, kept))), expected)


def test_which_weights_train_and_on_which_backend(tiny_llama_dir):
    start = Start(tiny_llama_dir, dtype=torch.bfloat16)
    found = {}
    for method in ("lora", "rslora", "dora", "full"):
        model = METHODS[method].load(start, recipe_of(method))
        weights = trainable_weights(model)
        backend = choose_backend(model, 0, dtype=torch.bfloat16)
        assert {weight.dtype for weight in weights.values()} == {torch.float32}
        found[method] = (len(weights), backend.name, backend.dtype)
    assert found == {
        "lora": (28, "packed", torch.bfloat16),
        "rslora": (28, "packed", torch.bfloat16),
        "dora": (42, "padded", torch.bfloat16),
        "full": (20, "padded", torch.bfloat16),  # embedding and head are one
    }


def test_a_vision_tower_stays_as_it_is(tmp_path):
    start = Start(save_family("gemma3", tmp_path / "base"))
    before = load_base_model(start.base_folder, torch.float32, CPU).state_dict()
    after = load_base_model(trained("full", start, tmp_path)[0], torch.float32, CPU).state_dict()
    changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    seeing = {name for name in before if "vision_tower" in name or "multi_modal_projector" in name}
    assert seeing
    assert changed == set(before) - seeing


def test_a_full_model_is_saved_in_the_format_that_it_is_served_in(tiny_llama_dir, tmp_path):
    for method in ("dora", "full"):
        start = Start(tiny_llama_dir, dtype=torch.bfloat16)
        kept, _ = trained(method, start, tmp_path / method)
        model = load_base_model(kept, torch.float32, CPU)
        assert all(torch.equal(weight, weight.bfloat16().float()) for weight in model.parameters())
        assert model.config.tie_word_embeddings
        assert sorted(path.name for path in kept.iterdir()) == [
            "config.json",
            "generation_config.json",
            "model.safetensors",
        ]


def test_qlora_says_what_is_missing(tmp_path, monkeypatch):
    for method in ("lora", "rslora", "dora", "full"):
        require_method(method, CPU)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # Python's own word for "can't be imported"
    with pytest.raises(MethodUnavailable, match="needs the package bitsandbytes"):
        require_method("qlora", CPU)
    monkeypatch.delitem(sys.modules, "bitsandbytes")
    (tmp_path / "bitsandbytes.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MethodUnavailable, match="needs a CUDA GPU, and this machine computes on 'cpu'"):
        require_method("qlora", CPU)
