"""Every supported family is trained, resumed, served, evaluated and exported as transformers' own code has it.

The table of docs/models.md is what these tests find: `pytest tests/tasks/models/test_families.py --write-tables`.
"""

import json
import re
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from configs.recipe import TrainingRecipe
from configs.settings import Settings
from registry.model_families import FAMILIES, OTHERS, WITH_VISION
from registry.tables import Model
from registry.weights import has_experts, has_vision, linear_layers
from tasks.inference.decoding import StepSize
from tasks.inference.network.generic_model import GenericModel
from tasks.inference.network.load import load_network
from tasks.metrics.perplexity import negative_log_likelihood
from tasks.metrics.responses import generate_responses
from tasks.models.export import ExportImpossible, export_model
from tasks.models.loading import load_base_model
from tasks.models.sources import ModelSource
from tasks.training import adapter as adapters
from tasks.training.estimate import sizes_of
from tasks.training.fitting import workload_of
from tasks.training.methods import METHODS
from tasks.training.step_backend import backend_name
from tests import tiny_families
from tests.tasks.inference.conftest import greedy, references
from tests.tasks.models.page_table import PageTable
from tests.tasks.training.job import Killed, Recorder, Row, adapter_bytes, run

PIECES = StepSize(chunk=7, tokens=16)
NEW_TOKENS = 12
RECIPE = TrainingRecipe(lora_r=4, max_steps=5, batch_size=6, learning_rate=3e-2, warmup_ratio=0, eval_every=1)
PAGE = Path(__file__).parents[3] / "docs" / "models.md"
MODELS = sorted([*FAMILIES, *tiny_families.VARIANTS])
KILLED = ("gemma3", "gpt_oss", "llama", "phi3, rope longrope")
"""Whose runs are not only paused but also crashed: what a checkpoint holds is no different for the others."""
STRAIGHT = 1e-4
"""Most that two ways to compute the same logits in float32 differ by."""


@pytest.fixture
def table(request):
    return PageTable(PAGE, "families", write=request.config.getoption("--write-tables"))


def random_ids(length, seed=3):
    return torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def random_rows():
    """Rows within a window and beyond it, and on both sides of a longrope's switch."""
    rows = [random_ids(length, seed=length) for length in (6, 44, 13, 36, 20, 31)]
    return [Row(ids, [-100] * (len(ids) // 3) + ids[len(ids) // 3 :]) for ids in rows]


def own_loss(model, rows):
    """Transformers' own mean loss of the labelled tokens, the rows read one by one, without padding."""
    total, labelled = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            count = sum(label != -100 for label in row.labels[1:])
            loss = model.eval()(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
            total, labelled = total + count * loss.item(), labelled + count
    return total / labelled


def logits_of(model, ids):
    with torch.inference_mode():
        return model.eval()(torch.tensor([ids])).logits[0].float()


def test_the_table_is_that_of_the_tests(table):
    assert set(tiny_families.FAMILIES) == set(FAMILIES)
    assert not set(FAMILIES) & set(OTHERS)
    assert set(FAMILIES) | set(OTHERS) <= set(CONFIG_MAPPING)


def test_the_page_lists_what_is_refused():
    refused = PAGE.read_text().split("## Refused")[1].partition("\n## ")[0]
    reasons = {family: row.split(" | ")[1].rstrip(" |") for row in refused.splitlines() for family in named(row)}
    assert reasons == OTHERS


def named(row):
    """The families in the first column of a table's row."""
    return (
        []
        if not row.startswith("| `")
        else [name for name in re.findall("`(.+?)`", row.split("|")[1]) if name != "model_type"]
    )


@pytest.mark.parametrize("name", MODELS)
def test_a_family_is_trained_resumed_served_evaluated_and_exported(make_engine, table, name, tmp_path):
    settings = Settings(data_dir=tmp_path, local_models_dir=tmp_path / "models", device="cpu", compute_dtype="float32")
    base = tiny_families.save_family(name, tmp_path / "models" / "base")
    # 1. Trained: the loss is transformers' own
    source, rows = ModelSource(settings, Model(name="Base", base_model="base")), random_rows()
    straight, model = Recorder(), METHODS["lora"].load(source, RECIPE)
    assert_adapters_are_where_the_page_says(model, base)
    backend, before = backend_name(model), own_loss(model, rows)
    run(model, RECIPE, tmp_path / "straight", straight, rows=rows, held_out=rows, compute_dtype=torch.float32)
    losses = [loss for kind, _, loss in straight.events if kind == "evaluation"]
    assert straight.records[0].loss == pytest.approx(before, rel=1e-4)
    assert losses[-1] == pytest.approx(own_loss(model, rows), rel=1e-4)
    assert losses[-1] < before - 0.05
    # 2. Paused, and for some killed, and resumed: to the bit
    kept = adapter_bytes(model, tmp_path / "straight-adapter")
    for crash in (False, True) if name in KILLED else (False,):
        assert interrupted(source, rows, tmp_path / f"interrupted-{crash}", straight, crash=crash) == kept
    # 3. Registered: a folder that a record names
    METHODS["lora"].save(model, settings.adapters_dir / "tuned", source)
    source.tokenizer.save_pretrained(settings.adapters_dir / "tuned")
    tuned = ModelSource(settings, Model(name="Tuned", base_model="base", adapter="tuned"))
    # 4. Served: alone and together, the prompt read whole and in pieces, as transformers' `generate` answers
    prompts = [random_ids(length, length) for length in (40, 3, 26)]
    of_base, of_tuned = (
        [greedy(base, folder, NEW_TOKENS, ids=ids) for ids in prompts] for folder in (None, tuned.adapter_folder)
    )
    requests, expected = [*of_base, *of_tuned], [*references(of_base), *references(of_tuned)]
    assert_served(make_engine, requests, expected)
    assert len(set(chain(*expected))) > 8, "a text that says something"
    assert expected[:3] != expected[3:], "training has changed the text"
    # 5. Evaluated: in batches, as one by one
    loaded = tuned.load()
    assert_evaluated(loaded, rows, prompts, expected[3:])
    # 6. Exported: what plain transformers reads answers alike
    export_model(tuned, "merged", tmp_path / "merged")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "merged", dtype=torch.float32)
    assert type(again) is type(load_base_model(base, torch.float32, source.device))
    for ids in prompts:
        torch.testing.assert_close(logits_of(again, ids), logits_of(loaded, ids), atol=STRAIGHT, rtol=STRAIGHT)
    # 7. As GGUF: read back alike, or refused by name
    try:
        export_model(tuned, "gguf", tmp_path / "gguf")
        gguf = "yes"
    except ExportImpossible as refusal:
        gguf = f"no: {refusal}"
    network = load_network(base, torch.float32, torch.device("cpu"))
    serving = "one sequence after the other" if isinstance(network, GenericModel) else "many sequences in a step"
    network.close()
    table.check([f"`{name}`", f"{backend} rows{left_out(base)}", "to the bit", serving, "yes", "merged, peft", gguf])


def left_out(base):
    if has_experts(base):
        return "; experts and routers by `full` only"
    return "; the vision tower never" if has_vision(base) else ""


def assert_adapters_are_where_the_page_says(model, base):
    adapted = {name.partition(".lora_A.")[0] for name in adapters.trainable_weights(model) if ".lora_A." in name}
    assert {name.removeprefix("base_model.model.") for name in adapted} == set(linear_layers(base))
    # What a job's memory is planned by before and after the model is loaded.
    sizes = workload_of(model, RECIPE, [8], None).sizes
    assert sorted(sizes.adapted) == sorted(linear_layers(base).values())
    assert replace(sizes, adapted=None) == sizes_of(json.loads((base / "config.json").read_text()))
    assert not any("vision" in name for name in adapted)
    assert adapters.leaves_out_experts(model) == has_experts(base)
    assert adapters.has_vision(model) == has_vision(base) == (model.config.model_type in WITH_VISION)


def interrupted(source, rows, folder, straight, *, crash):
    """Return the adapter of the run that is paused after step 2, or crashes after step 4, and goes on."""
    first = Recorder(kill_after=4) if crash else Recorder(pause_after=2)
    options = {"rows": rows, "held_out": rows, "compute_dtype": torch.float32}
    model = METHODS["lora"].load(source, RECIPE)
    if crash:
        with pytest.raises(Killed):
            run(model, RECIPE, folder, first, interval=0, **options)
    else:
        assert run(model, RECIPE, folder, first, **options).paused
    model, then = METHODS["lora"].load(source, RECIPE), Recorder()
    run(model, RECIPE, folder, then, **options)
    begun = then.started_at[0]
    assert begun == (3 if crash else 2)
    assert first.trace()[:begun] + then.trace() == straight.trace()
    return adapter_bytes(model, folder / "adapter")


def assert_served(make_engine, requests, expected):
    for step in (None, PIECES):
        engine = make_engine(budget=20_000_000, step=step)
        assert [each.result() for each in [engine.submit(request) for request in requests]] == expected
    alone = requests[:: len(requests) // 2]
    assert [engine.generate(request) for request in alone] == expected[:: len(requests) // 2]


def assert_evaluated(model, rows, prompts, expected):
    measured = negative_log_likelihood(model, rows, 0)
    mean = sum(row.nats for row in measured) / sum(row.tokens for row in measured)
    assert mean == pytest.approx(own_loss(model, rows), rel=1e-4)
    answers = generate_responses(
        model.eval(),
        prompts,
        NEW_TOKENS,
        pad_token_id=0,
        end_token_ids=frozenset({tiny_families.VOCABULARY + 1}),
        context_length=128,
    )
    assert answers == expected


def test_the_page_lists_the_models_that_were_tried(table):
    table.keep([f"`{name}`" for name in MODELS])
