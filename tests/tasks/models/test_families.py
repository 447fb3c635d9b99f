"""Every supported family trains and answers as transformers' own code for it does; every other one is refused."""

import re
from itertools import chain
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from configs.recipe import TrainingRecipe
from registry.model_families import FAMILIES, OTHERS
from registry.weights import has_experts, linear_layers
from tasks.inference.decoding import StepSize
from tasks.metrics.responses import generate_responses
from tasks.training.adapter import leaves_out_experts
from tasks.training.methods import METHODS
from tests import tiny_families
from tests.tasks.inference.conftest import greedy, reference
from tests.tasks.training.job import Recorder, Start, make_rows, run

PIECES = StepSize(chunk=7, tokens=16)
NEW_TOKENS = 20
RECIPE = TrainingRecipe(lora_r=4, max_steps=3, batch_size=6, learning_rate=3e-2, warmup_ratio=0, eval_every=1)
PAGE = Path(__file__).parents[3] / "docs" / "models.md"


def random_ids(length, seed=3):
    return torch.randint(3, 300, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def own_loss(model, rows):
    """Transformers' own mean loss of the labelled tokens, the rows read one by one, without padding."""
    total, labelled = 0.0, 0
    with torch.inference_mode():
        for row in rows:
            count = sum(label != -100 for label in row.labels[1:])
            loss = model.eval()(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
            total, labelled = total + count * loss.item(), labelled + count
    return total / labelled


def test_the_table_is_that_of_the_tests():
    assert set(tiny_families.FAMILIES) == set(FAMILIES)
    assert not set(FAMILIES) & set(OTHERS)
    assert set(FAMILIES) | set(OTHERS) <= set(CONFIG_MAPPING)


def test_the_page_lists_them():
    supported, refused = (
        part.partition("\n## ")[0] for part in re.split("## Supported|## Refused", PAGE.read_text())[1:]
    )
    assert sorted(named(supported)) == sorted(FAMILIES)
    reasons = {family: row.split(" | ")[1].rstrip(" |") for row in refused.splitlines() for family in named(row)}
    assert reasons == OTHERS


def named(rows):
    """The families in the first column of a table's rows."""
    cells = [row.split("|")[1] for row in rows.splitlines() if row.startswith("| `")]
    return [family for cell in cells for family in re.findall("`(.+?)`", cell) if family != "model_type"]


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_family_trains_and_answers_as_transformers_says(make_engine, family, tmp_path):
    base = tiny_families.save_family(family, tmp_path / "base")
    start, rows, recorder = Start(base), make_rows(6), Recorder()
    model = METHODS["lora"].load(start, RECIPE)
    names = sorted(model.peft_config["default"].target_modules)
    assert sorted({layer.rpartition(".")[2] for layer in linear_layers(base)}) == names
    assert leaves_out_experts(model) == has_experts(base)
    before = own_loss(model, rows)
    run(model, RECIPE, tmp_path / "checkpoints", recorder, rows=rows, held_out=rows, compute_dtype=torch.float32)
    losses = [loss for kind, _, loss in recorder.events if kind == "evaluation"]
    assert recorder.records[0].loss == pytest.approx(before, rel=1e-4)
    assert losses[-1] == pytest.approx(own_loss(model, rows), rel=1e-4)
    assert losses[-1] < before - 0.05

    METHODS["lora"].save(model, tmp_path / "kept", start)
    prompts = [random_ids(length, length) for length in (40, 3)]
    requests = [greedy(base, adapter, NEW_TOKENS, ids=ids) for adapter in (None, tmp_path / "kept") for ids in prompts]
    expected = [reference(request) for request in requests]
    for step in (None, PIECES):
        engine = make_engine(budget=20_000_000, step=step)
        assert [each.result() for each in [engine.submit(request) for request in requests]] == expected
    # In a batch padded on the left, as evaluations ask.
    together = generate_responses(
        model.eval(),
        prompts,
        NEW_TOKENS,
        pad_token_id=0,
        end_token_ids=frozenset({tiny_families.VOCABULARY + 1}),
        context_length=128,
    )
    assert together == expected[2:]
    assert len(set(chain(*expected))) > 8, "a text that says something"
    assert expected[0] != expected[2], "training has changed the text"
