"""The loss and its gradient are those of transformers; evaluation leaves no trace."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from configs.recipe import TrainingRecipe
from tasks.training.adapter import trainable_weights
from tasks.training.batch import collate
from tasks.training.loss import summed_nll
from tasks.training.step_backend import choose_backend, held_out_loss
from tests.tasks.training.job import load_adapted, make_rows

RECIPE = TrainingRecipe(lora_dropout=0.0)


def shaken(folder, dtype=torch.float32):
    """A model whose adapter does something: both factors are random."""
    model = load_adapted(folder, RECIPE, dtype)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for weight in trainable_weights(model).values():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    return model.eval()


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_loss_and_gradient_equal_transformers(tiny_models_dir, name):
    rows = make_rows(6)
    batch = collate(rows, 0)
    labels = torch.full_like(batch.input_ids, -100)
    labels[:, 1:] = batch.targets[:, :-1]

    ours, theirs = shaken(tiny_models_dir / name), shaken(tiny_models_dir / name)
    loss = summed_nll(ours, batch) / batch.labelled
    reference = theirs(input_ids=batch.input_ids, attention_mask=batch.attention_mask, labels=labels).loss
    torch.testing.assert_close(loss, reference)
    loss.backward()
    reference.backward()
    for (key, weight), other in zip(trainable_weights(ours).items(), trainable_weights(theirs).values(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, msg=key)


@pytest.mark.parametrize("name", ["tiny-llama", "tiny-gpt2"])
def test_a_bfloat16_base_gives_nearly_the_same_loss_and_float32_gradients(tiny_models_dir, name):
    batch = collate(make_rows(6), 0)
    exact, rough = shaken(tiny_models_dir / name), shaken(tiny_models_dir / name, torch.bfloat16)
    loss = summed_nll(rough, batch)
    torch.testing.assert_close(loss, summed_nll(exact, batch), rtol=5e-3, atol=0)
    loss.backward()
    assert {weight.grad.dtype for weight in trainable_weights(rough).values()} == {torch.float32}


def test_padding_does_not_change_the_loss(tiny_llama_dir):
    model, rows = shaken(tiny_llama_dir), make_rows(6)
    one_by_one = sum(summed_nll(model, collate([row], 0)).item() for row in rows)
    assert summed_nll(model, collate(rows, 0)).item() == pytest.approx(one_by_one, rel=1e-5)


def test_held_out_loss_is_per_token_and_leaves_mode_and_random_state(tiny_gpt2_dir):
    model, rows = shaken(tiny_gpt2_dir), make_rows(40)
    batch = collate(rows, 0)
    expected = summed_nll(model, batch).item() / batch.labelled
    model.train()  # GPT-2 has dropout of its own
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert held_out_loss(choose_backend(model, 0), model, rows, 2) == pytest.approx(expected, rel=1e-5)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


def test_the_model_is_left_without_hooks(tiny_llama_dir):
    model = shaken(tiny_llama_dir)
    ids = torch.tensor([[4, 5, 6]])
    before = model(input_ids=ids).logits
    summed_nll(model, collate(make_rows(2), 0))
    assert torch.equal(model(input_ids=ids).logits, before)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    assert before.shape == plain(input_ids=ids).logits.shape
