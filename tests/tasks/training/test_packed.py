"""The packed backend: transformers' and peft's loss, gradients and curve; rows kept apart; dropout as seeded."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from configs.recipe import TrainingRecipe
from tasks.training.adapter import attach_lora, save_adapter, trainable_weights
from tasks.training.batch import collate
from tasks.training.loss import summed_nll
from tasks.training.packed import attention
from tasks.training.packed.batch import pack
from tasks.training.packed.dropout import Streams, keep_probability, masked
from tasks.training.packed.linear import MergedLinear
from tasks.training.packed.llama import PackedLlama
from tasks.training.step_backend import PackedBackend, choose_backend
from tests.tasks.training.job import Recorder, load_adapted, make_rows, run

RECIPE = TrainingRecipe(lora_dropout=0.0, lora_r=4)
SHAPE = {
    "vocab_size": 300,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FAMILY = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE, tie_word_embeddings=True)),
    "llama-biased-long": lambda: LlamaForCausalLM(
        LlamaConfig(
            **SHAPE,
            attention_bias=True,
            head_dim=16,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 5e5,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            },
        )
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
}


def test_a_llama_with_longrope_is_not_packed():
    """Its rotary module changes with each text's length, and threads share it."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "original_max_position_embeddings": 16}
    rope = {"rope_type": "longrope", "rope_theta": 1e4, "factor": 8.0} | factors
    model = attach_lora(LlamaForCausalLM(LlamaConfig(**SHAPE, rope_parameters=rope)), RECIPE)
    assert choose_backend(model, 0).name == "padded"


def adapted(base, recipe=RECIPE):
    """The model with an adapter whose both factors are random."""
    model = attach_lora(base, recipe)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, weight in base.named_parameters():
            if name.endswith(("norm.weight", "bias")):
                weight.add_(0.2 * torch.randn(weight.shape, generator=generator))
        for weight in trainable_weights(model).values():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return model


def twice(build, recipe=RECIPE, dtype=torch.float32):
    """The same adapted model twice: the first in float32, the second in `dtype`."""
    models = []
    for kind in (torch.float32, dtype):
        torch.manual_seed(11)
        models.append(adapted(build().to(kind), recipe))
    return models


def reference_loss(model, rows):
    """transformers' own loss of the rows one by one, summed over their labelled tokens."""
    total = torch.zeros(())
    for row in rows:
        labelled = sum(label != -100 for label in row.labels[1:])
        total = total + labelled * model(torch.tensor([row.input_ids]), labels=torch.tensor([row.labels])).loss
    return total


def gradients(model):
    return {name: weight.grad for name, weight in trainable_weights(model).items()}


@pytest.mark.parametrize("name", FAMILY)
def test_loss_and_gradients_are_those_of_transformers_and_peft(name):
    reference, fast = twice(FAMILY[name])
    rows = make_rows(6)
    expected = reference_loss(reference, rows)
    expected.backward()
    backend = choose_backend(fast, 0)
    assert backend.name == "packed"
    loss = backend.accumulate(backend.batch(rows), 1)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    for key, gradient in gradients(fast).items():
        torch.testing.assert_close(gradient, gradients(reference)[key], rtol=1e-3, atol=1e-5, msg=key)


def test_bfloat16_is_about_as_near_to_the_float32_reference_as_autocast_is():
    rows = make_rows(6)
    errors = {}
    for path in ("packed", "padded"):
        reference, rough = twice(FAMILY["llama"], dtype=torch.bfloat16)
        expected = reference_loss(reference, rows)
        expected.backward()
        loss = PackedLlama(rough).summed_nll(pack(rows)) if path == "packed" else summed_nll(rough, collate(rows, 0))
        loss.backward()
        torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
        assert {gradient.dtype for gradient in gradients(rough).values()} == {torch.float32}
        exact = torch.cat([gradient.flatten() for gradient in gradients(reference).values()])
        found = torch.cat([gradient.flatten() for gradient in gradients(rough).values()])
        errors[path] = ((found - exact).norm() / exact.norm()).item()
    assert errors["packed"] < 2 * errors["padded"]


@pytest.mark.parametrize("targets", [["q_proj"], ["k_proj", "up_proj"], ["down_proj"], ["layers.2.self_attn.o_proj"]])
def test_only_some_layers_have_an_adapter(targets):
    reference, fast = twice(FAMILY["llama"], RECIPE.model_copy(update={"target_modules": targets}))
    rows = make_rows(5)
    reference_loss(reference, rows).backward()
    PackedLlama(fast).summed_nll(pack(rows)).backward()
    assert gradients(fast)
    for key, gradient in gradients(fast).items():
        torch.testing.assert_close(gradient, gradients(reference)[key], rtol=1e-3, atol=1e-5, msg=key)


def test_rows_longer_than_are_attended_to_directly_give_the_same(monkeypatch):
    direct, fused = twice(FAMILY["llama"])
    batch = pack(make_rows(5))
    losses = [PackedLlama(direct).summed_nll(batch)]
    losses[0].backward()
    monkeypatch.setattr(attention, "LONGEST_DIRECT", 1)
    losses.append(PackedLlama(fused).summed_nll(batch))
    losses[1].backward()
    torch.testing.assert_close(losses[1], losses[0])
    for key, gradient in gradients(fused).items():
        torch.testing.assert_close(gradient, gradients(direct)[key], rtol=1e-3, atol=1e-5, msg=key)


def test_a_row_does_not_see_the_other_rows():
    model, _ = twice(FAMILY["llama"])
    rows, backend = make_rows(4), PackedBackend(model)
    alone = [backend.summed_nll(backend.batch([row])) for row in rows]
    together = backend.summed_nll(backend.batch(rows))
    turned = backend.summed_nll(backend.batch(rows[::-1]))
    assert together == pytest.approx(sum(alone), rel=1e-5)
    assert turned == pytest.approx(sum(alone), rel=1e-5)


def test_the_models_own_weights_still_answer_and_save_the_same(tmp_path):
    before, model = twice(FAMILY["llama"])
    backend = choose_backend(model, 0)
    ids = torch.tensor([[4, 5, 6]])
    torch.testing.assert_close(model(ids).logits, before(ids).logits)
    backend.accumulate(backend.batch(make_rows(2)), 1)
    files = [
        (save_adapter(m, tmp_path / n, "base") / "adapter_model.safetensors") for n, m in (("a", before), ("b", model))
    ]
    assert files[0].read_bytes() == files[1].read_bytes()


@pytest.mark.parametrize("probability", [0.05, 0.5])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_masks_drop_as_often_as_asked_and_repeat_with_the_seed(probability, dtype):
    x = torch.randn(333, 301, dtype=dtype)
    streams = Streams.of([7, 8], [300, 33], 0, x.device)
    mask, again = (streams.keep_mask(301, probability) for _ in range(2))
    assert not torch.equal(again, mask)
    assert torch.equal(Streams.of([7], [300], 0, x.device).keep_mask(301, probability), mask[:300])
    assert torch.equal(Streams.of([8], [33], 0, x.device).keep_mask(301, probability), mask[300:])
    assert not torch.equal(Streams.of([8], [33], 1, x.device).keep_mask(301, probability), mask[300:])
    assert torch.equal(masked(x, mask), torch.where(mask.bool(), x, 0))
    kept = mask.bool().double().mean().item()
    deviation = (probability * (1 - probability) / x.numel()) ** 0.5
    assert kept == pytest.approx(keep_probability(probability), abs=5 * deviation)
    assert keep_probability(probability) == pytest.approx(1 - probability, abs=1e-5)


def test_dropout_changes_the_loss_in_training_only_and_not_its_mean():
    model = adapted(FAMILY["llama"](), RECIPE.model_copy(update={"lora_dropout": 0.3}))
    backend = choose_backend(model, 0)
    batch = backend.batch(make_rows(4))
    exact = backend.summed_nll(batch)
    assert backend.summed_nll(batch) == exact
    torch.manual_seed(2)
    noisy = torch.tensor([backend.accumulate(batch, 1) for _ in range(60)])
    assert noisy.std() > 0
    assert abs(noisy.mean().item() - exact) < 0.02 * exact


def test_dropouts_loss_and_gradient_are_those_of_the_masked_product():
    model = adapted(FAMILY["llama"](), RECIPE.model_copy(update={"lora_dropout": 0.3}))
    mlp = model.get_base_model().model.layers[0].mlp
    layers = [mlp.gate_proj, mlp.up_proj]
    factors = [getattr(layer, part)["default"].weight for layer in layers for part in ("lora_A", "lora_B")]
    x, weights = (
        torch.randn(9, SHAPE["hidden_size"], requires_grad=True),
        torch.randn(9, 2 * SHAPE["intermediate_size"]),
    )
    streams = Streams.of([4], [len(x)], 0, x.device)
    kept = streams.keep_mask(x.shape[1], 0.3).bool().float() / keep_probability(0.3)
    plain = [
        layer.base_layer(x) + layer.scaling["default"] * (x * kept) @ a.T @ b.T
        for layer, a, b in zip(layers, factors[::2], factors[1::2], strict=True)
    ]
    expected = torch.autograd.grad((torch.cat(plain, 1) * weights).sum(), [x, *factors])
    merged = MergedLinear(layers)
    output = merged(x, Streams.of([4], [len(x)], 0, x.device))
    torch.testing.assert_close(output, torch.cat(plain, 1))
    for found, exact in zip(torch.autograd.grad((output * weights).sum(), [x, *factors]), expected, strict=True):
        torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-4)


def test_models_it_does_not_support_take_the_padded_backend(tiny_llama_dir, tiny_gpt2_dir, tmp_path):
    assert choose_backend(load_adapted(tiny_gpt2_dir, RECIPE), 0).name == "padded"
    known = load_adapted(tiny_llama_dir, RECIPE)
    assert choose_backend(known, 0).name == "packed"
    base = AutoModelForCausalLM.from_pretrained(tiny_llama_dir)
    dora = get_peft_model(base, LoraConfig(target_modules=["q_proj"], use_dora=True))
    assert choose_backend(dora, 0).name == "padded"
    save_adapter(known, tmp_path, "tiny-llama")
    child = attach_lora(AutoModelForCausalLM.from_pretrained(tiny_llama_dir), RECIPE, parent=tmp_path)
    assert choose_backend(child, 0).name == "padded"
    windowed = MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=16))
    assert choose_backend(adapted(windowed), 0).name == "padded"


def sharp(folder, recipe, dtype):
    """Vectors this short, untrained, can't give a sharp answer whatever the layers before the head learn."""
    model = load_adapted(folder, recipe, dtype)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(5)
    return model


def test_the_loss_curve_over_100_steps_is_that_of_the_float32_reference(tiny_llama_dir, tmp_path):
    recipe = RECIPE.model_copy(update={"max_steps": 100, "batch_size": 4, "learning_rate": 3e-3})
    rows, curves = make_rows(16), []
    for dtype in (torch.float32, torch.bfloat16):
        recorder = Recorder()
        model = sharp(tiny_llama_dir, recipe, dtype)
        run(model, recipe, tmp_path / str(dtype), recorder, rows=rows, held_out=[])
        curves.append([record.loss for record in recorder.records])

    reference, expected = sharp(tiny_llama_dir, recipe, torch.float32), []
    optimizer = torch.optim.AdamW(trainable_weights(reference).values(), weight_decay=0.0)
    for record in recorder.records:
        batch = collate([rows[row] for row in record.sample_ids], 0)
        logits = reference(batch.input_ids, attention_mask=batch.attention_mask).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trainable_weights(reference).values(), 1.0)
        optimizer.param_groups[0]["lr"] = record.learning_rate
        optimizer.step()
        expected.append(loss.item())
    assert len(expected) == 100
    assert expected[-1] < 0.8 * expected[0]
    assert curves[0] == pytest.approx(expected, rel=1e-3)
    assert curves[1] == pytest.approx(expected, rel=2e-2)
