"""Folders that load, and clear errors for those that must not."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from tasks.inference.network.load import load_network
from tasks.models.errors import WeightsError
from tasks.models.loading import (
    attach_adapter,
    context_length,
    end_token_ids,
    load_base_model,
    load_tokenizer,
    model_files,
    weight_bytes,
)

CPU = torch.device("cpu")
IDS = torch.tensor([[1, 2, 3]])


@pytest.fixture
def llama_copy(tiny_llama_dir, tmp_path):
    return shutil.copytree(tiny_llama_dir, tmp_path / "llama")


def load(folder):
    return load_base_model(folder, torch.float32, CPU)


def test_bytes_are_known_before_loading(tiny_llama_dir):
    model = load(tiny_llama_dir)
    assert not model.training
    assert weight_bytes(model_files(tiny_llama_dir), torch.float32) == sum(p.numel() * 4 for p in model.parameters())


def test_contexts(tiny_llama_dir, tiny_gpt2_dir):
    assert context_length(AutoConfig.from_pretrained(tiny_llama_dir)) == 256
    assert context_length(AutoConfig.from_pretrained(tiny_gpt2_dir)) == 128


def test_every_end_token_counts(llama_copy):
    tokenizer = load_tokenizer(llama_copy)
    (llama_copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 6]}))
    assert end_token_ids(llama_copy, tokenizer) == {5, 6, tokenizer.eos_token_id}


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(WeightsError, match=r"there is no folder .*absent"):
        load(tmp_path / "absent")
    with pytest.raises(WeightsError, match="absent is not a folder"):
        load_tokenizer(tmp_path / "absent")


def test_pickled_weights_are_refused(llama_copy):
    torch.save(load_file(llama_copy / "model.safetensors"), llama_copy / "pytorch_model.bin")
    (llama_copy / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"pytorch_model\.bin, and pickled weights are not loaded"):
        load(llama_copy)


def test_a_file_cut_short_is_refused(llama_copy):
    file = llama_copy / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(WeightsError, match="damaged"):
        load(llama_copy)


def test_missing_tensors_are_refused(llama_copy):
    tensors = load_file(llama_copy / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, llama_copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsError, match="lacks 1 tensors"):
        load(llama_copy)


def test_remote_code_is_refused(llama_copy):
    config = json.loads((llama_copy / "config.json").read_text())
    config |= {"model_type": "my_own", "auto_map": {"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"}}
    (llama_copy / "config.json").write_text(json.dumps(config))
    (llama_copy / "mine.py").write_text("raise SystemExit('this code ran')")
    with pytest.raises(WeightsError, match=r"config\.json"):
        load(llama_copy)


def test_a_failed_adapter_leaves_the_base_as_it_was(tiny_llama_dir, adapters_dir, tmp_path):
    damaged = shutil.copytree(adapters_dir / "llama-1", tmp_path / "damaged")
    tensors = load_file(damaged / "adapter_model.safetensors")
    tensors.pop(min(tensors))
    save_file(tensors, damaged / "adapter_model.safetensors")
    model = load(tiny_llama_dir)
    before = model(IDS).logits
    with pytest.raises(WeightsError, match="lacks 1 tensors"):
        attach_adapter(model, damaged)
    with pytest.raises(WeightsError, match="gpt2-1 can't be attached"):
        attach_adapter(model, adapters_dir / "gpt2-1")
    assert torch.equal(model(IDS).logits, before)
    adapted = attach_adapter(model, adapters_dir / "llama-1", "one")
    with pytest.raises(WeightsError, match="lacks 1 tensors"):
        attach_adapter(adapted, damaged, "two")
    adapted.set_adapter("one")
    assert list(adapted.peft_config) == ["one"]
    assert not torch.allclose(model(IDS).logits, before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "only LORA"),
        ({"bias": "all"}, "changes the base"),
        ({"init_lora_weights": "pissa"}, "changes the base"),
    ],
)
def test_adapters_that_would_touch_the_base_are_refused(tiny_llama_dir, adapters_dir, tmp_path, change, message):
    folder = shutil.copytree(adapters_dir / "llama-1", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | change))
    with pytest.raises(WeightsError, match=message):
        attach_adapter(load(tiny_llama_dir), folder)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("lora_bias", True),
        ("trainable_token_indices", [3, 4]),
        ("alora_invocation_tokens", [5, 6]),
        ("target_parameters", ["mlp.experts.gate_up_proj"]),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("an_option_of_a_later_peft", {"strength": 2}),
    ],
)
def test_options_that_are_not_applied_are_refused(tiny_llama_dir, adapters_dir, tmp_path, option, value):
    folder = shutil.copytree(adapters_dir / "llama-1", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {option: value}))
    for network in (load(tiny_llama_dir), load_network(tiny_llama_dir, torch.float32, CPU)):
        with pytest.raises(WeightsError, match=f"has {option}, which is not served"):
            attach_adapter(network, folder) if isinstance(network, torch.nn.Module) else network.load_adapter(folder)


def test_options_that_later_versions_leave_off_are_no_matter(tiny_llama_dir, adapters_dir, tmp_path):
    folder = shutil.copytree(adapters_dir / "llama-1", tmp_path / "adapter")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"later": None, "also_later": False}))
    attach_adapter(load(tiny_llama_dir), folder)


def test_a_pickled_adapter_is_refused(tiny_llama_dir, adapters_dir, tmp_path):
    folder = shutil.copytree(adapters_dir / "llama-1", tmp_path / "adapter")
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"adapter_model\.safetensors is missing"):
        attach_adapter(load(tiny_llama_dir), folder)
