import pytest

from registry.model_folder import count_parameters
from registry.weights import WeightsUnavailable, format_size, locate, obtain, probe


def test_local_folder_is_found_and_sized(tiny_models_dir, tiny_llama_dir):
    from transformers import AutoModelForCausalLM

    assert locate("tiny-llama", tiny_models_dir) == tiny_llama_dir
    found = probe("tiny-llama", tiny_models_dir, allow_hub=False)
    assert found.status == "AVAILABLE"
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    assert count_parameters(tiny_llama_dir) == model.num_parameters()
    assert found.model_size == format_size(model.num_parameters())


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_half_a_model_is_no_model(tmp_path, missing):
    folder = tmp_path / "half"
    folder.mkdir()
    for name in {"config.json", "model.safetensors"} - {missing}:
        (folder / name).write_text("{}")
    assert locate("half", tmp_path) is None


def test_missing_weights_say_where_was_looked(tmp_path):
    found = probe("no-such-model", tmp_path, allow_hub=False)
    assert found.status == "UNAVAILABLE"
    assert str(tmp_path) in found.reason
    with pytest.raises(WeightsUnavailable, match="no-such-model is neither"):
        obtain("no-such-model", tmp_path, allow_hub=False)


@pytest.mark.parametrize(
    ("parameters", "size"),
    [(134_515_008, "135M"), (1_540_000_000, "1.5B"), (999_999_999, "1.0B"), (30_000, "30K"), (82_000_000, "82M")],
)
def test_sizes_read_as_people_write_them(parameters, size):
    assert format_size(parameters) == size
