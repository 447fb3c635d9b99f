"""Where an answer ends: a base that ends texts with one token and turns with another stops by itself everywhere."""

import json

import pytest
import torch
from gguf import GGUFReader
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from api.engine_server.schemas import EngineGenerateRequest
from api.engine_server.service import TextEngine
from configs.recipe import TrainingRecipe
from configs.settings import Settings
from registry.model_registry import register_version
from registry.tables import Model
from registry.tracking import TrackedRun
from tasks.data.examples import Example, Message
from tasks.data.tokenizing import tokenize
from tasks.metrics.responses import generate_responses
from tasks.models.endings import answer_end_ids, write_end_ids
from tasks.models.errors import WeightsError
from tasks.models.export import GGUF_FILE, export_model
from tasks.models.loading import end_token_ids
from tasks.models.sources import ModelSource
from tasks.register import PYFUNC_CODE
from tasks.training.methods import METHODS
from tests.tasks.training.job import Recorder, Row, Start, run
from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

QUESTION, ANSWER = "What does abs do?", "Return the absolute value."
ROOM = 60


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    """Those of a platform with `qwen-like`: its texts end with `<|endoftext|>`, its turns with `<|im_end|>`."""
    root = tmp_path_factory.mktemp("platform")
    tokenizer = byte_level_tokenizer("<|endoftext|>", ["<|im_start|>", "<|im_end|>"], CHAT_TEMPLATE)
    end = tokenizer.eos_token_id
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), bos_token_id=end, eos_token_id=end, **shape)
    LlamaForCausalLM(config).save_pretrained(root / "models" / "qwen-like")
    tokenizer.save_pretrained(root / "models" / "qwen-like")
    return Settings(
        data_dir=root / "data", local_models_dir=root / "models", device="cpu", compute_dtype="float32", allow_hub=False
    )


@pytest.fixture(scope="module")
def tokenizer(settings):
    return AutoTokenizer.from_pretrained(settings.local_models_dir / "qwen-like")


@pytest.fixture(scope="module")
def turn_end(tokenizer):
    return tokenizer.convert_tokens_to_ids("<|im_end|>")


@pytest.fixture(scope="module")
def source(settings, tokenizer, turn_end, tmp_path_factory):
    """The base with an adapter that has learned one answer by heart, and where it ends."""
    row = tokenize(Example((Message("user", QUESTION), Message("assistant", ANSWER))), tokenizer, 512)
    assert row.labels[-1] == turn_end
    start = Start(settings.local_models_dir / "qwen-like")
    recipe = TrainingRecipe(method="lora", epochs=60, batch_size=1, learning_rate=1e-2)
    model = METHODS["lora"].load(start, recipe)
    rows, checkpoints = [Row(row.input_ids, row.labels)], tmp_path_factory.mktemp("job")
    run(model, recipe, checkpoints, Recorder(), rows=rows, held_out=[], compute_dtype=torch.float32)
    METHODS["lora"].save(model, settings.adapters_dir / "tuned", start)
    tokenizer.save_pretrained(settings.adapters_dir / "tuned")
    return ModelSource(settings, Model(name="Tuned", base_model="qwen-like", adapter="tuned"))


@pytest.fixture(scope="module")
def prompt(tokenizer):
    asked = [{"role": "user", "content": QUESTION}]
    return tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)


def generated(model, tokenizer, prompt):
    """What transformers' own `generate` adds to the prompt, told of nothing."""
    batch = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
    output = model.eval().generate(**batch, do_sample=False, max_new_tokens=ROOM, pad_token_id=0)
    return output[0, batch["input_ids"].shape[1] :].tolist()


def test_the_ends_are_those_of_template_files_and_tokenizer(source, tokenizer, turn_end):
    assert source.known_end_ids == [turn_end, tokenizer.eos_token_id]
    assert source.end_token_ids == {turn_end, tokenizer.eos_token_id}


def test_it_stops_when_served(settings, source):
    engine = TextEngine(settings)
    request = EngineGenerateRequest(
        weights=str(source.base_folder),
        adapter=str(source.adapter_folder),
        messages=[{"role": "user", "content": QUESTION}],
        temperature=0,
        max_new_tokens=ROOM,
    )
    try:
        generation = engine.start(request, lambda _: None)
        generation.generation.result(120)
        assert generation.new_text() + generation.text.finish() == ANSWER
        assert generation.usage().finish_reason == "stop"
    finally:
        engine.close(10)


def test_it_stops_when_evaluated_and_wherever_its_model_generates(source, tokenizer, turn_end, prompt):
    ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    model = source.load()
    (answer,) = generate_responses(
        model, [ids], ROOM, pad_token_id=0, end_token_ids=source.end_token_ids, context_length=2048
    )
    assert tokenizer.decode(answer) == ANSWER
    assert generated(model, tokenizer, prompt) == [*answer, turn_end]


def test_it_stops_once_it_is_exported(source, tokenizer, turn_end, prompt, tmp_path):
    export_model(source, "merged", tmp_path / "merged")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert tokenizer.decode(generated(model, tokenizer, prompt)) == ANSWER + "<|im_end|>"
    export_model(source, "peft", tmp_path / "peft")
    for form in ("merged", "peft"):
        named = json.loads((tmp_path / form / "generation_config.json").read_text())
        assert named["eos_token_id"] == [turn_end, tokenizer.eos_token_id]
    export_model(source, "gguf", tmp_path / "gguf")
    fields = GGUFReader(tmp_path / "gguf" / GGUF_FILE).fields
    assert fields["tokenizer.ggml.eot_token_id"].contents() == turn_end
    assert fields["tokenizer.ggml.eos_token_id"].contents() == tokenizer.eos_token_id


@pytest.mark.filterwarnings("default")  # MLflow's own warnings are not ours to fix
def test_it_stops_as_mlflow_loads_it(source, prompt, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    tracking_uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run = TrackedRun(tracking_uri, "training", "a job", {"training_job_uid": "1"})
    config = {"base_model": "qwen-like", "base_folder": str(source.base_folder), "dtype": "float32"}
    artifacts, tags = {"adapter": source.adapter_folder}, {"training_job_uid": "1"}
    version = register_version(
        tracking_uri,
        run.run_id,
        "tuned",
        PYFUNC_CODE,
        artifacts,
        config | {"end_token_ids": source.known_end_ids},
        tags,
    )
    loaded = mlflow.pyfunc.load_model(f"models:/tuned/{version.version}")
    assert loaded.predict([prompt]) == [prompt + ANSWER]


NAMED = [
    ({"generation_config.json": {"eos_token_id": 7}}, {7}),
    ({"generation_config.json": {"eos_token_id": [7, 8]}, "config.json": {"eos_token_id": 9}}, {7, 8, 9}),
    ({"config.json": {"eos_token_id": [9, 10]}}, {9, 10}),
    ({"config.json": {"text_config": {"eos_token_id": 11}}}, {11}),
    ({"config.json": {"eos_token_id": None, "text_config": None}, "generation_config.json": {}}, set()),
    ({}, set()),
]


@pytest.mark.parametrize(("files", "ids"), NAMED, ids=str)
def test_every_place_that_names_an_end_counts(tokenizer, turn_end, tmp_path, files, ids):
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    assert end_token_ids(tmp_path, tokenizer) == ids | {tokenizer.eos_token_id}
    found = answer_end_ids(tmp_path, tokenizer)
    assert found[0] == turn_end
    assert set(found) == ids | {tokenizer.eos_token_id, turn_end}
    write_end_ids(tmp_path, found)
    assert json.loads((tmp_path / "generation_config.json").read_text())["eos_token_id"] == found


@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_a_damaged_file_is_named(tokenizer, tmp_path, name):
    (tmp_path / name).write_text("[1]")
    with pytest.raises(WeightsError, match=name):
        end_token_ids(tmp_path, tokenizer)
