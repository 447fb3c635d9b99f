"""Every shipped recipe and the catalogue parse, and settings come from the environment."""

from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

import configs
from configs.catalogue import load_catalogue
from configs.recipe import TrainingRecipe
from configs.settings import Settings

RECIPES = sorted((Path(configs.__file__).parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_parse(path):
    recipe = yaml.safe_load(path.read_text())
    assert TrainingRecipe(**recipe).model_dump(include=set(recipe)) == recipe


def test_there_are_recipes():
    assert RECIPES


def test_the_catalogue_starts_with_the_model_that_needs_no_hub():
    assert [entry.base_model for entry in load_catalogue()] == [
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        "gpt2",
        "distilgpt2",
    ]


def test_whole_floats_are_integers_and_other_coercions_are_refused():
    assert TrainingRecipe.model_validate({"epochs": 3.0}).epochs == 3
    for wrong in (3.5, "3", True, None):
        with pytest.raises(ValidationError):
            TrainingRecipe.model_validate({"epochs": wrong})


def test_a_recipe_that_trains_every_weight_has_no_adapters_fields():
    as_the_form_sends_it = TrainingRecipe().model_dump() | {"method": "full"}
    recipe = TrainingRecipe(**as_the_form_sends_it)
    left_out = set(as_the_form_sends_it) - set(recipe.hyperparameters())
    assert left_out == {"lora_r", "lora_alpha", "lora_dropout", "target_modules"}
    assert TrainingRecipe(**recipe.hyperparameters()) == recipe
    assert TrainingRecipe(method="dora").hyperparameters() == TrainingRecipe(method="dora").model_dump()
    with pytest.raises(ValidationError, match=r"leave out lora_r \(4\), target_modules \(\['q_proj'\]\)"):
        TrainingRecipe(**as_the_form_sends_it | {"lora_r": 4, "target_modules": ["q_proj"]})


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "sharding is 'full', but devices is 1: .* raise devices or leave out sharding"),
        ({"devices": 2, "method": "dora"}, "method is 'dora', .* sharding takes the methods lora, rslora, full"),
    ],
)
def test_weights_are_divided_among_several_devices_and_where_they_are_frozen(fields, sentence):
    with pytest.raises(ValidationError, match=sentence):
        TrainingRecipe(sharding="full", **fields)
    assert TrainingRecipe(sharding="none", **fields).shardings == (False,)


def test_settings_come_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLM_PLATFORM_API_PORT", "8000")
    monkeypatch.setenv("LLM_PLATFORM_ALLOWED_HOSTS", '["my.host"]')
    settings = Settings()
    assert (settings.api_port, settings.allowed_hosts) == (8000, ["my.host"])
    assert settings.data_dir == tmp_path / "data"
    assert settings.platform_database_url == f"sqlite:///{tmp_path / 'data' / 'platform.db'}"


@pytest.mark.parametrize(("name", "value"), [("API_PORT", "0"), ("DEVICE", "tpu"), ("COMPUTE_DTYPE", "int8")])
def test_wrong_settings_are_refused(monkeypatch, name, value):
    monkeypatch.setenv(f"LLM_PLATFORM_{name}", value)
    with pytest.raises(ValidationError, match=name.lower()):
        Settings()
