"""A checkpoint's adapter, taken out without torch, is byte for byte the one that the model would be saved with."""

import pytest
import torch
from torch import float32

from configs.recipe import TrainingRecipe
from tasks.models.loading import load_base_model
from tasks.training.adapter import attach_lora, save_adapter
from tasks.training.checkpoint_list import saved_checkpoints
from tasks.training.export import export_adapter
from tests.tasks.training.job import Recorder, run, unsay

RECIPE = TrainingRecipe(lora_r=3, lora_alpha=5, max_steps=3, batch_size=4, eval_every=2)


def exported(job, recipe=RECIPE):
    kept = next(iter(saved_checkpoints(job / "checkpoints")))
    folder = export_adapter(kept.folder, job / "untrained", job / "adapters", "job-", recipe.lora_scale)
    return kept, folder


def trained(base, job, recipe=RECIPE, parent=None):
    """The model after a job that has left its checkpoints in the folder `job`."""
    model = attach_lora(load_base_model(base, float32, torch.device("cpu")), recipe, parent=parent)
    save_adapter(model, job / "untrained", "base")
    run(model, recipe, job / "checkpoints", Recorder())
    return model


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("older", [False, True])
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_an_exported_adapter_is_the_saved_one(tiny_models_dir, tmp_path, name, older):
    model = trained(tiny_models_dir / name, tmp_path)
    if older:
        unsay(next(iter(saved_checkpoints(tmp_path / "checkpoints"))).folder)
    kept, folder = exported(tmp_path)
    assert kept.step == 3
    assert files(folder) == files(save_adapter(model, tmp_path / "saved", "base"))


def test_on_top_of_another_adapter_it_holds_both(tiny_llama_dir, tmp_path):
    some = TrainingRecipe(lora_r=2, lora_alpha=7, max_steps=2, batch_size=4, target_modules=["q_proj", "up_proj"])
    parent = save_adapter(trained(tiny_llama_dir, tmp_path / "parent", some), tmp_path / "saved-parent", "base")
    other = RECIPE.model_copy(update={"target_modules": ["q_proj", "down_proj"]})
    model = trained(tiny_llama_dir, tmp_path / "child", other, parent=parent)
    _, folder = exported(tmp_path / "child", other)
    assert files(folder) == files(save_adapter(model, tmp_path / "saved", "base"))


def test_a_second_export_finds_the_first_and_other_weights_get_another_folder(tiny_llama_dir, tmp_path):
    trained(tiny_llama_dir, tmp_path / "one")
    _, folder = exported(tmp_path / "one")
    before = folder.stat().st_ino
    assert exported(tmp_path / "one")[1] == folder
    assert folder.stat().st_ino == before
    trained(tiny_llama_dir, tmp_path / "two", RECIPE.model_copy(update={"seed": 7}))
    assert exported(tmp_path / "two")[1].name != folder.name


def test_what_is_gone_or_damaged_leaves_nothing_behind(tiny_llama_dir, tmp_path):
    trained(tiny_llama_dir, tmp_path)
    kept = next(iter(saved_checkpoints(tmp_path / "checkpoints")))
    weights = kept.folder / "weights.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match="is not what was written"):
        exported(tmp_path)
    weights.unlink()
    with pytest.raises(FileNotFoundError):
        exported(tmp_path)
    assert not (tmp_path / "adapters").exists()


def test_what_a_kept_checkpoint_says_of_itself(tiny_llama_dir, tmp_path):
    model = attach_lora(load_base_model(tiny_llama_dir, float32, torch.device("cpu")), RECIPE)
    recorder = Recorder()
    run(model, RECIPE, tmp_path / "checkpoints", recorder, interval=0.0)
    told = {(kind, step): value for kind, step, value in recorder.events}
    # Held-out losses are measured after step 2 and at the end.
    assert [(one.step, one.train_loss, one.held_out_loss) for one in saved_checkpoints(tmp_path / "checkpoints")] == [
        (step, told["step", step], told["evaluation", step]) for step in (3, 2)
    ]
    assert [one.folder for one in saved_checkpoints(tmp_path / "checkpoints")] == recorder.saved[-1:-3:-1]
    assert list(saved_checkpoints(tmp_path / "absent")) == []
