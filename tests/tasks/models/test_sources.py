"""Where a model's parts lie: a full model needs nothing of the base that it descends from."""

import shutil

import pytest
import torch

from configs.settings import Settings
from registry.tables import Model
from registry.weights import WeightsUnavailable
from tasks.models.loading import load_base_model
from tasks.models.sources import ModelSource


def test_a_model_with_weights_of_its_own_is_loaded_from_them(tiny_llama_dir, tmp_path):
    settings = Settings(data_dir=tmp_path, allow_hub=False, device="cpu", compute_dtype="float32")
    shutil.copytree(tiny_llama_dir, settings.weights_dir / "uid")
    source = ModelSource(settings, Model(base_model="gone", weights="uid"))
    assert source.base_reference == str(source.base_folder) == str(settings.weights_dir / "uid")
    ids = torch.tensor([source.tokenizer("The quick")["input_ids"]])
    expected = load_base_model(tiny_llama_dir, torch.float32, torch.device("cpu"))(ids).logits
    assert torch.equal(source.load()(ids).logits, expected)
    with pytest.raises(WeightsUnavailable, match="gone"):
        ModelSource(settings, Model(base_model="gone"))
