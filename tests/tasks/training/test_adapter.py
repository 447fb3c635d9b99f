"""Adapters sit on the right layers, start the same from the same seed, and load back with peft."""

import json
import subprocess
import sys

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from configs.recipe import TrainingRecipe
from tasks.training.adapter import (
    attach_lora,
    default_target_modules,
    leaves_out_experts,
    save_adapter,
    trainable_weights,
)
from tasks.training.errors import AdapterError
from tests.tasks.training.job import adapter_bytes, load_adapted
from tests.tiny_families import save_family

RECIPE = TrainingRecipe(lora_r=4)
LLAMA = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
GPT2 = ["c_attn", "c_fc", "c_proj"]
ATTENTION = {"tiny-llama": "q_proj", "tiny-gpt2": "c_attn"}


@pytest.mark.parametrize(("name", "expected"), [("tiny-llama", LLAMA), ("tiny-gpt2", GPT2)])
def test_every_linear_layer_but_the_head(tiny_models_dir, name, expected):
    model = AutoModelForCausalLM.from_pretrained(tiny_models_dir / name)
    assert default_target_modules(model) == expected
    adapted = attach_lora(model, RECIPE)
    weights = trainable_weights(adapted)
    layers = {"tiny-llama": 14, "tiny-gpt2": 8}[name]
    assert len(weights) == 2 * layers
    assert all(".lora_A." in key or ".lora_B." in key for key in weights)
    assert adapted.peft_config["default"].fan_in_fan_out == (name == "tiny-gpt2")


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_adapters_are_float32_and_start_from_the_seed(tiny_models_dir, tmp_path, name, dtype):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = load_adapted(tiny_models_dir / name, RECIPE, dtype)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    second = load_adapted(tiny_models_dir / name, RECIPE, dtype)
    other = load_adapted(tiny_models_dir / name, RECIPE.model_copy(update={"seed": 43}), dtype)
    assert {weight.dtype for weight in trainable_weights(first).values()} == {torch.float32}
    assert first.get_input_embeddings().weight.dtype == dtype
    assert adapter_bytes(first, tmp_path / "1") == adapter_bytes(second, tmp_path / "2")
    assert adapter_bytes(first, tmp_path / "1") != adapter_bytes(other, tmp_path / "3")


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_chosen_target_modules(tiny_models_dir, name):
    target = ATTENTION[name]
    weights = trainable_weights(
        load_adapted(tiny_models_dir / name, RECIPE.model_copy(update={"target_modules": [target]}))
    )
    assert len(weights) == 4
    assert all(target in key for key in weights)


@pytest.mark.parametrize("bad", ["nonsense", "lm_head", "self_attn", "proj", "embed_tokens"])
def test_bad_target_modules_are_named_with_the_accepted_ones(tiny_llama_dir, bad):
    recipe = RECIPE.model_copy(update={"target_modules": ["q_proj", bad]})
    with pytest.raises(AdapterError) as caught:
        load_adapted(tiny_llama_dir, recipe)
    assert str(caught.value) == f"target_modules not in this model: {bad}; it has: {', '.join(LLAMA)}"


def test_dense_layers_with_the_names_of_experts_are_refused(tmp_path):
    """Those of a Qwen3-MoE whose first layer has no experts: peft would adapt the experts in their place."""
    folder = save_family("qwen3_moe", tmp_path, mlp_only_layers=[0])
    with pytest.raises(AdapterError, match="has down_proj, gate_proj, up_proj, which peft takes for experts"):
        load_adapted(folder, RECIPE)
    adapted = load_adapted(folder, RECIPE.model_copy(update={"target_modules": ["q_proj", "o_proj"]}))
    assert leaves_out_experts(adapted)
    assert len(trainable_weights(adapted)) == 8


# peft's own loading asks for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_a_saved_adapter_loads_with_peft_and_gives_the_same_logits(tiny_models_dir, tmp_path, name):
    model = load_adapted(tiny_models_dir / name, RECIPE).eval()
    with torch.no_grad():
        for weight in trainable_weights(model).values():
            weight.normal_(std=0.05, generator=torch.Generator().manual_seed(4))
    save_adapter(model, tmp_path / "adapter", "some/base")
    config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "some/base"
    assert config["target_modules"] == default_target_modules(model.unload())

    base = AutoModelForCausalLM.from_pretrained(tiny_models_dir / name)
    loaded = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    ids = torch.tensor([[4, 5, 6, 7]])
    with torch.no_grad():
        without, found = base.eval()(input_ids=ids).logits, loaded(input_ids=ids).logits
        with loaded.disable_adapter():
            plain = loaded(input_ids=ids).logits
    assert torch.equal(without, found)  # peft adapts the base in place
    assert not torch.allclose(plain, found)
    again = load_adapted(tiny_models_dir / name, RECIPE).eval()
    with torch.no_grad():
        for weight in trainable_weights(again).values():
            weight.normal_(std=0.05, generator=torch.Generator().manual_seed(4))
        assert torch.equal(again(input_ids=ids).logits, found)


SAVE = """
import sys
from pathlib import Path
from configs.recipe import TrainingRecipe
from tasks.training.adapter import save_adapter
from tests.tasks.training.job import load_adapted
save_adapter(load_adapted(Path(sys.argv[1]), TrainingRecipe(lora_r=4)), Path(sys.argv[2]), "base")
"""


def test_another_process_writes_the_same_bytes(tiny_llama_dir, tmp_path, request):
    command = [sys.executable, "-c", SAVE, str(tiny_llama_dir), str(tmp_path / "theirs")]
    subprocess.run(command, cwd=request.config.rootpath, check=True, env={"PYTHONHASHSEED": "77"})
    ours = save_adapter(load_adapted(tiny_llama_dir, RECIPE), tmp_path / "ours", "base")
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "theirs" / file).read_bytes() == (ours / file).read_bytes()
