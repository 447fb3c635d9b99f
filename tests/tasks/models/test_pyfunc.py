"""What MLflow loads back is the model that was trained: equal logits, from a real registry."""

import shutil

import pytest
import torch

from configs.recipe import TrainingRecipe
from registry.model_registry import register_version
from registry.tracking import TrackedRun
from tasks.models.loading import load_base_model, load_tokenizer
from tasks.register import PYFUNC_CODE
from tasks.training.adapter import attach_lora, save_adapter
from tasks.training.methods import METHODS
from tests.tasks.training.job import Recorder, Start, run


@pytest.fixture
def tracking_uri(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.mark.filterwarnings("default")  # MLflow's own warnings are not ours to fix
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_the_registered_version_gives_the_trained_models_logits(tiny_models_dir, tmp_path, tracking_uri, name):
    import mlflow

    folder = tiny_models_dir / name
    model = attach_lora(load_base_model(folder, torch.float32, torch.device("cpu")), TrainingRecipe(lora_r=4))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter_name, weight in model.named_parameters():
            if "lora_B" in parameter_name:
                weight.normal_(std=0.5)
    adapter, tokenizer = save_adapter(model, tmp_path / "adapter", name), load_tokenizer(folder)
    tokenizer.save_pretrained(adapter)
    run = TrackedRun(tracking_uri, "training", "a job", {"training_job_uid": "1"})
    config = {"base_model": name, "base_folder": str(folder), "dtype": "float32"}

    def register():
        return register_version(
            tracking_uri, run.run_id, name, PYFUNC_CODE, {"adapter": adapter}, config, {"training_job_uid": "1"}
        )

    version = register()
    assert register() == version, "a second attempt finds the version of the first"
    loaded = mlflow.pyfunc.load_model(f"models:/{name}/{version.version}")
    ids = torch.tensor([tokenizer("The future of")["input_ids"]])
    with torch.no_grad():
        trained, base = model.eval()(ids).logits[0], model.get_base_model()
        with model.disable_adapter():
            untrained = base(ids).logits[0]
    logits = loaded.unwrap_python_model().logits("The future of")
    torch.testing.assert_close(logits, trained, rtol=0, atol=0)
    assert not torch.allclose(logits, untrained)
    (text,) = loaded.predict(["The future of"], params=None)
    assert text.startswith("The future of")


@pytest.mark.filterwarnings("default")  # MLflow's own warnings are not ours to fix
def test_a_registered_full_model_needs_no_base(tiny_llama_dir, tmp_path, tracking_uri):
    import mlflow

    start, recipe = Start(tiny_llama_dir), TrainingRecipe(method="full", max_steps=8, learning_rate=1e-2, batch_size=4)
    model = METHODS["full"].load(start, recipe)
    run(model, recipe, tmp_path / "checkpoints", Recorder())
    tokenizer = load_tokenizer(tiny_llama_dir)
    ids = torch.tensor([tokenizer("The future of")["input_ids"]])
    with torch.no_grad():
        trained = model.eval()(ids).logits[0]
        untrained = load_base_model(tiny_llama_dir, torch.float32, torch.device("cpu"))(ids).logits[0]
    METHODS["full"].save(model, tmp_path / "kept", start)
    tokenizer.save_pretrained(tmp_path / "kept")
    tracked = TrackedRun(tracking_uri, "training", "a job", {"training_job_uid": "1"})
    config = {"base_model": "gone", "base_folder": str(tmp_path / "gone"), "dtype": "float32"}
    artifacts, tags = {"model": tmp_path / "kept"}, {"training_job_uid": "1"}
    version = register_version(tracking_uri, tracked.run_id, "whole", PYFUNC_CODE, artifacts, config, tags)
    shutil.rmtree(tmp_path / "kept")
    loaded = mlflow.pyfunc.load_model(f"models:/whole/{version.version}").unwrap_python_model()
    torch.testing.assert_close(loaded.logits("The future of"), trained)
    assert not torch.allclose(trained, untrained)
