"""Folders that can't be loaded say why, before anybody tries; those that can are AVAILABLE."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from registry.model_folder import count_parameters, defect, weights_defect
from registry.weights import WeightsUnavailable, locate, obtain, probe
from tasks.models.errors import WeightsError
from tasks.models.loading import load_base_model


def edit(file, **fields):
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def cut(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def cut_in_the_header(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])


def empty(folder):
    (folder / "model.safetensors").write_bytes(b"")


def huge_header(folder):
    (folder / "model.safetensors").write_bytes((2**62).to_bytes(8, "little") + b"{}")


def pickled(folder):
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def adapter_only(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "org/base"}')
    save_file({"x.lora_A.weight": torch.zeros(1)}, folder / "adapter_model.safetensors")


def adapter_of_unknown_base(folder):
    adapter_only(folder)
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def broken_adapter(folder):
    adapter_only(folder)
    (folder / "adapter_config.json").write_text("[")


def adapter_with_a_head(folder):
    adapter_only(folder)
    edit(folder / "adapter_config.json", modules_to_save=["lm_head"])


def gguf_only(folder):
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def gguf_beside_a_config(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model-q4.gguf").write_bytes(b"GGUF")


def adapter_beside(folder):
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')


def no_tokenizer(folder):
    for file in folder.glob("*token*"):
        file.unlink()


def broken_tokenizer(folder):
    (folder / "tokenizer.json").write_text('{"model": ')


def gptq(folder):
    edit(folder / "config.json", quantization_config={"quant_method": "gptq", "bits": 4})


def mxfp4(folder):
    edit(folder / "config.json", model_type="gpt_oss", quantization_config={"quant_method": "mxfp4"})


def index_without_its_files(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def broken_index(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text('{"weight_map": [1]}')


def broken_config(folder):
    (folder / "config.json").write_text("[" * 5000)


def no_family(folder):
    (folder / "config.json").write_text("{}")


def recurrent(folder):
    edit(folder / "config.json", model_type="mamba2")


def encoder(folder):
    edit(folder / "config.json", model_type="bert")


def encoder_decoder(folder):
    edit(folder / "config.json", model_type="t5")


def untested(folder):
    edit(folder / "config.json", model_type="ctrl")


def of_nobody(folder):
    edit(folder / "config.json", model_type="my_own")


def another_head(folder):
    edit(folder / "config.json", architectures=["LlamaForSequenceClassification"])


def other_names(folder):
    (folder / "model.safetensors").rename(folder / "weights.safetensors")


DEFECTS = {
    cut: "cut short or damaged",
    cut_in_the_header: "cut short or damaged",
    empty: "cut short or damaged",
    huge_header: "cut short or damaged",
    pickled: "pytorch_model.bin, and pickled weights are not loaded",
    adapter_only: "holds an adapter only (adapter_config.json), and not org/base",
    adapter_of_unknown_base: "holds an adapter only (adapter_config.json), and not the base model",
    broken_adapter: "adapter_config.json is not a JSON object: download the adapter again",
    adapter_with_a_head: "has modules_to_save, which is not served: train it without",
    gguf_only: "model-q4.gguf can't be read (its header is cut short or damaged): download it again",
    gguf_beside_a_config: "its GGUF file model-q4.gguf is not read beside a config.json: put the file into a folder",
    adapter_beside: "beside the base's weights",
    no_tokenizer: "has no tokenizer",
    broken_tokenizer: "tokenizer.json",
    gptq: "quantized (gptq), and only full ones are loaded: take the model's checkpoint in bfloat16",
    mxfp4: "quantized (mxfp4), and only full ones are loaded: take a copy in bfloat16, or write one",
    index_without_its_files: "model-00001-of-00002.safetensors is missing",
    broken_index: "index.json is damaged",
    broken_config: "config.json",
    no_family: "config.json names no model_type",
    recurrent: "of the family mamba2, which is not supported: it carries a recurrent state",
    encoder: "of the family bert, which is not supported: it reads a text in both directions",
    encoder_decoder: "of the family t5, which is not supported: it has an encoder",
    untested: "of the family ctrl, which is not supported: no test proves",
    of_nobody: "of the family my_own, which is not supported: no test proves",
    another_head: "says that it is a LlamaForSequenceClassification",
    other_names: "though it holds weights.safetensors",
}


@pytest.fixture
def models_dir(tiny_llama_dir, tmp_path):
    shutil.copytree(tiny_llama_dir, tmp_path / "model")
    return tmp_path


@pytest.mark.parametrize("damage", DEFECTS, ids=lambda damage: damage.__name__)
def test_a_folder_that_can_not_be_loaded_says_why(models_dir, damage):
    folder = models_dir / "model"
    assert probe("model", models_dir, allow_hub=False).status == "AVAILABLE"
    damage(folder)
    # The hub may be asked, and is not: what somebody put there is what is meant.
    found = probe("model", models_dir, allow_hub=True)
    assert found.status == "UNAVAILABLE"
    assert DEFECTS[damage] in found.reason
    assert found.reason.endswith(".")
    assert locate("model", models_dir) is None
    with pytest.raises(WeightsUnavailable) as raised:
        obtain("model", models_dir, allow_hub=False)
    assert DEFECTS[damage] in str(raised.value)


@pytest.mark.parametrize(
    "damage",
    [one for one in DEFECTS if one not in (no_tokenizer, broken_tokenizer)],
    ids=lambda damage: damage.__name__,
)
def test_the_loader_refuses_the_same(models_dir, damage):
    damage(models_dir / "model")
    with pytest.raises(WeightsError) as raised:
        load_base_model(models_dir / "model", torch.float32, torch.device("cpu"))
    assert DEFECTS[damage] in str(raised.value)


def test_a_mended_folder_is_available_again(models_dir):
    file = models_dir / "model" / "model.safetensors"
    content = file.read_bytes()
    cut(models_dir / "model")
    assert defect(models_dir / "model") is not None
    file.write_bytes(content)
    assert defect(models_dir / "model") is None


def test_several_files_are_counted_by_their_index(models_dir):
    folder = models_dir / "model"
    tensors = load_file(folder / "model.safetensors")
    parameters = count_parameters(folder)
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in halves.items():
        save_file({name: tensors[name] for name in own}, folder / file, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, own in halves.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_defect(folder) is None
    assert count_parameters(folder) == parameters
    load_base_model(folder, torch.float32, torch.device("cpu"))


def test_headers_of_eight_bits_are_read(models_dir):
    """Types that numpy does not have are no matter: nothing is loaded."""
    file = models_dir / "model" / "model.safetensors"
    save_file({"a": torch.zeros(3, 5, dtype=torch.bfloat16), "b": torch.zeros(7, dtype=torch.float8_e4m3fn)}, file)
    assert weights_defect(models_dir / "model") is None
    assert count_parameters(models_dir / "model") == 22
