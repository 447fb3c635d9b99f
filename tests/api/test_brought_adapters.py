"""Adapters that somebody has put among the models: applied as peft applies them, or refused by name when added."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from registry.adapter_folder import APPLIED, DEFAULTS
from registry.tables import Model
from tasks.models.sources import ModelSource
from tests.tasks.inference.adapters import save_adapter

IDS = torch.arange(5, 25)[None]


@pytest.fixture
def brought(tiny_models_dir, request):
    """An adapter of the tiny Llama beside it, as another program has saved it."""
    folder = save_adapter(tiny_models_dir / "tiny-llama", tiny_models_dir / "org" / "brought", seed=5)
    edit(folder, base_model_name_or_path="tiny-llama")
    yield folder
    shutil.rmtree(folder)


def edit(folder, **fields):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def add(client, **headers):
    answer = client.post("/api/models", json={"name": "Mine", "base_model": "org/brought"}, headers=headers)
    assert answer.status_code == 201, answer.text
    return answer.json()


@pytest.mark.parametrize("named", ["tiny-llama", "/home/somebody/models/tiny-llama"])
@pytest.mark.parametrize("own_tokenizer", [False, True])
def test_an_adapter_of_a_base_that_is_there_is_a_model(
    client, database, settings, tiny_models_dir, brought, named, own_tokenizer
):
    edit(brought, base_model_name_or_path=named)
    if own_tokenizer:
        tokenizer = AutoTokenizer.from_pretrained(tiny_models_dir / "tiny-llama")
        tokenizer.chat_template = "{{ messages[0].content }}"
        tokenizer.save_pretrained(brought)
    made = add(client)
    assert (made["status"], made["base_model"]) == ("AVAILABLE", "tiny-llama")
    with database.reading() as session:
        source = ModelSource(settings, session.get(Model, made["id"]))
    assert (source.tokenizer.chat_template == "{{ messages[0].content }}") == own_tokenizer
    base = AutoModelForCausalLM.from_pretrained(tiny_models_dir / "tiny-llama")
    with torch.inference_mode():
        plain = base(IDS).logits
        theirs = PeftModel.from_pretrained(base, brought).eval()(IDS).logits
        found = source.load()(IDS).logits.float()
    torch.testing.assert_close(found, theirs, atol=0.05, rtol=0.05)  # bfloat16
    assert (theirs - plain).abs().max() > 0.2
    folder = source.adapter_folder
    assert client.delete(f"/api/models/{made['id']}").status_code == 200
    assert not folder.exists()
    assert (brought / "adapter_model.safetensors").is_file()


def wrong_width(folder):
    tensors = load_file(folder / "adapter_model.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith("q_proj.lora_A.weight"))
    save_file(tensors | {name: torch.zeros(4, 48)}, folder / "adapter_model.safetensors")


def cut(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:200])


REFUSED = {
    "modules_to_save": (lambda folder: edit(folder, modules_to_save=["lm_head"]), "has modules_to_save, which is not"),
    "lora_bias": (lambda folder: edit(folder, lora_bias=True), "has lora_bias, which is not served"),
    "aLoRA": (lambda folder: edit(folder, alora_invocation_tokens=[5]), "has alora_invocation_tokens, which is not"),
    "token indices": (lambda folder: edit(folder, trainable_token_indices=[3]), "has trainable_token_indices, which"),
    "experts": (lambda folder: edit(folder, target_parameters=["mlp.experts.w"]), "has target_parameters, which is"),
    "DoRA": (lambda folder: edit(folder, use_dora=True), "is of the DoRA kind: only plain LoRA adapters are served"),
    "bias": (lambda folder: edit(folder, bias="all"), "changes the base model's own weights"),
    "another kind": (lambda folder: edit(folder, peft_type="IA3"), "of type IA3: only LORA adapters are served"),
    "no base": (lambda folder: edit(folder, base_model_name_or_path="org/other"), "it belongs to org/other, which is"),
    "unnamed base": (
        lambda folder: edit(folder, base_model_name_or_path=None),
        "it belongs to a base that it does not",
    ),
    "another model": (wrong_width, "is for another model: its model.layers.0.self_attn.q_proj takes 48 inputs, not 32"),
    "cut": (cut, "is cut short or damaged: download the adapter again"),
    "no weights": (
        lambda folder: (folder / "adapter_model.safetensors").unlink(),
        "adapter_model.safetensors is missing",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_can_not_be_applied_is_named_when_it_is_added(client, settings, brought, kind):
    damage, reason = REFUSED[kind]
    damage(brought)
    made = add(client)
    assert made["status"] == "UNAVAILABLE"
    assert reason in made["status_reason"]
    assert made["base_model"] == "org/brought"
    assert not list(settings.adapters_dir.glob("brought-*"))


def test_a_repeated_request_leaves_no_second_copy(client, settings, brought):
    first = add(client, **{"Idempotency-Key": "brought once"})
    again = add(client, **{"Idempotency-Key": "brought once"})
    assert again["id"] == first["id"]
    assert len(list(settings.adapters_dir.glob("brought-*"))) == 1
    client.delete(f"/api/models/{first['id']}")


def test_options_that_nobody_asked_for_are_those_of_peft():
    options = LoraConfig().to_dict()
    assert {name: value for name, value in options.items() if value and name not in APPLIED} == DEFAULTS
