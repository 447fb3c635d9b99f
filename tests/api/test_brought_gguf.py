"""A GGUF file that somebody has put among the models is added like any model, and loaded when it is first needed."""

import json
import shutil
import time

import pytest
import torch

from registry.tables import Model
from tasks.models.sources import ModelSource
from tests.gguf_models import tiny_model, write
from tests.tasks.inference.adapters import save_adapter
from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

IDS = torch.arange(5, 25)[None]


@pytest.fixture
def brought(tiny_models_dir):
    folder = tiny_models_dir / "org" / "packed"
    folder.mkdir(parents=True)
    tokenizer = byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE)
    model = tiny_model("llama", len(tokenizer))
    write(folder / "model.gguf", model, tokenizer)
    yield model
    shutil.rmtree(folder)


def test_a_gguf_file_is_a_model(client, database, settings, brought):
    answer = client.post("/api/models", json={"name": "Packed", "base_model": "org/packed"})
    assert (answer.status_code, answer.json()["status"]) == (201, "AVAILABLE")
    # Nothing of it is on disk as it will be trained: what needs its files does without.
    job = {"model_id": answer.json()["id"], "job_name": "first", "max_steps": 2}
    assert client.post("/api/training", json=job).status_code == 201
    with database.reading() as session:
        source = ModelSource(settings, session.get(Model, answer.json()["id"]))
    with torch.inference_mode():
        torch.testing.assert_close(source.load()(IDS).logits.float(), brought(IDS).logits, atol=0.05, rtol=0.05)
    assert "im_start" in source.tokenizer.chat_template


def test_a_file_that_would_lose_something_is_not_available(client, tiny_models_dir, brought):
    tokenizer = byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE)
    scaled = {"llama.rope.scaling.type": "linear"}
    write(tiny_models_dir / "org" / "packed" / "model.gguf", brought, tokenizer, metadata=scaled)
    made = client.post("/api/models", json={"name": "Packed", "base_model": "org/packed"}).json()
    assert made["status"] == "UNAVAILABLE"
    assert "has llama.rope.scaling.type, which would be left out" in made["status_reason"]


def test_an_adapter_of_a_file_that_is_not_converted_yet_says_so(client, tiny_models_dir, brought):
    folder = save_adapter(tiny_models_dir / "tiny-llama", tiny_models_dir / "org" / "adapter", seed=5)
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "org/packed"}))
    made = client.post("/api/models", json={"name": "Adapted", "base_model": "org/adapter"}).json()
    shutil.rmtree(folder)
    assert made["status"] == "UNAVAILABLE"
    assert "org/packed, whose GGUF file has not been converted yet: add that model" in made["status_reason"]


def test_a_request_that_needs_it_has_it_converted(client, tiny_models_dir, brought):
    client.post("/api/models", json={"name": "Packed", "base_model": "org/packed"}).raise_for_status()
    body = {"model": "org/packed", "prompt": "a", "max_tokens": 1}
    answer = client.post("/v1/completions", json=body)
    assert answer.status_code == 503
    said = "The weights of org/packed are being converted from their GGUF file; try again in a while."
    assert answer.json()["error"]["message"] == said
    deadline = time.monotonic() + 60
    while not (tiny_models_dir / "org" / "packed" / "config.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.2)
