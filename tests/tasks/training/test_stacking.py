"""A fine-tune of a fine-tune, saved as one adapter, is the model that was trained."""

import pytest
import torch
from peft import LoraConfig, get_peft_model

from configs.recipe import TrainingRecipe
from tasks.models.errors import WeightsError
from tasks.models.loading import attach_adapter, load_base_model
from tasks.training.adapter import attach_lora, save_adapter, trainable_weights

CPU = torch.device("cpu")


def randomize(model, seed: int) -> None:
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in trainable_weights(model).items():
            if "lora_B" in name:
                weight.normal_(std=0.3)


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.arange(5, 25)[None]).logits


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_parent_and_child_become_one_adapter(tiny_models_dir, tmp_path, name):
    folder = tiny_models_dir / name
    parent = attach_lora(load_base_model(folder, torch.float32, CPU), TrainingRecipe(lora_r=4, lora_dropout=0.5))
    randomize(parent, 1)
    save_adapter(parent, tmp_path / "parent", name)
    some = ["q_proj", "down_proj"] if name == "tiny-llama" else ["c_attn"]
    recipe = TrainingRecipe(lora_r=3, lora_alpha=5, target_modules=some, lora_dropout=0.0)
    child = attach_lora(load_base_model(folder, torch.float32, CPU), recipe, parent=tmp_path / "parent")
    torch.testing.assert_close(logits(child), logits(parent), msg="before training, the child is its parent")
    randomize(child, 2)
    assert not torch.allclose(logits(child), logits(parent))
    assert all(".default." in weight for weight in trainable_weights(child))
    expected = logits(child)
    if name == "tiny-llama":
        # The parent's dropout is off, the child's and Llama's are 0: training mode changes nothing.
        child.train()
        torch.testing.assert_close(child(torch.arange(5, 25)[None]).logits, expected)
    save_adapter(child, tmp_path / "child", name)
    served = attach_adapter(load_base_model(folder, torch.float32, CPU), tmp_path / "child")
    torch.testing.assert_close(logits(served), expected)
    # And once more: a grandchild on top of a stacked adapter with uneven ranks.
    grandchild = attach_lora(load_base_model(folder, torch.float32, CPU), recipe, parent=tmp_path / "child")
    randomize(grandchild, 3)
    save_adapter(grandchild, tmp_path / "grandchild", name)
    served = attach_adapter(load_base_model(folder, torch.float32, CPU), tmp_path / "grandchild")
    torch.testing.assert_close(logits(served), logits(grandchild))


@pytest.mark.parametrize(
    "choice",
    [
        {"target_modules": r".*\.1\..*_proj"},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": ["q_proj", "up_proj"], "exclude_modules": ["model.layers.0.mlp.up_proj"]},
    ],
    ids=["pattern", "some layers", "all but one"],
)
def test_a_parent_whose_layers_are_chosen_otherwise_than_by_names(tiny_llama_dir, tmp_path, choice):
    parent = get_peft_model(load_base_model(tiny_llama_dir, torch.float32, CPU), LoraConfig(r=4, **choice))
    randomize(parent, 1)
    parent.save_pretrained(tmp_path / "parent")
    recipe = TrainingRecipe(lora_r=3, target_modules=["q_proj"], lora_dropout=0.0)
    base = load_base_model(tiny_llama_dir, torch.float32, CPU)
    child = attach_lora(base, recipe, parent=tmp_path / "parent")
    torch.testing.assert_close(logits(child), logits(parent))
    randomize(child, 2)
    save_adapter(child, tmp_path / "child", "base")
    served = attach_adapter(load_base_model(tiny_llama_dir, torch.float32, CPU), tmp_path / "child")
    torch.testing.assert_close(logits(served), logits(child))


def test_a_parent_with_an_option_that_would_be_lost_is_refused(tiny_llama_dir, tmp_path):
    config = LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm"])
    get_peft_model(load_base_model(tiny_llama_dir, torch.float32, CPU), config).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match="has modules_to_save, which is not served"):
        attach_lora(load_base_model(tiny_llama_dir, torch.float32, CPU), TrainingRecipe(), parent=tmp_path)
