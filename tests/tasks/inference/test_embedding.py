"""Embeddings against transformers' own last hidden states, as single sequences and in a batch."""

from itertools import pairwise

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig

from tasks.inference.decoding import StepSize
from tasks.inference.embedding import EmbeddingRequest
from tasks.inference.engine import ModelRef
from tasks.inference.errors import EngineBusy, EngineClosed, InferenceError, InputTooLong
from tests.tasks.inference.adapters import save_adapter
from tests.tasks.inference.conftest import greedy, reference
from tests.tasks.inference.test_engine import LONG
from tests.tasks.inference.test_network import texts, wide_llama
from tests.tiny_families import SWITCH, save_family

LENGTHS = [1, 5, 100, 2, 33, 64, 120]
VOCABULARY = 300
PIECES = StepSize(chunk=16, tokens=40)


def mean_state(folder, ids, adapter=None):
    """The mean, in float32, of what transformers calls the last hidden state of a text's tokens."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    with torch.inference_mode():
        output = model.eval()(torch.tensor([ids]), output_hidden_states=True)
    return output.hidden_states[-1][0].mean(0)


def embed_all(engine, folder, sequences, adapters=(None,)):
    """Ask for all at once; the adapters take turns."""
    asked = [
        engine.embed(EmbeddingRequest(ModelRef(folder, adapters[place % len(adapters)]), ids))
        for place, ids in enumerate(sequences)
    ]
    return [each.result(30) for each in asked]


@pytest.mark.parametrize("step", [None, PIECES], ids=["whole", "in pieces"])
@pytest.mark.parametrize("model", ["llama", "gpt2"])
def test_the_mean_of_transformers_last_states_with_adapters_side_by_side(
    make_engine, tiny_models_dir, adapters_dir, model, step
):
    folder, adapters = tiny_models_dir / f"tiny-{model}", [None, *sorted(adapters_dir.glob(f"{model}-*"))]
    sequences = texts(VOCABULARY, LENGTHS)
    found = embed_all(make_engine(step=step), folder, sequences, adapters)
    for place, (ids, vector) in enumerate(zip(sequences, found, strict=True)):
        assert vector.dtype == torch.float32
        expected = mean_state(folder, ids, adapters[place % len(adapters)])
        torch.testing.assert_close(vector, expected, atol=2e-6, rtol=1e-5, msg=str(place))
    others = [mean_state(folder, sequences[2], adapter) for adapter in adapters]
    assert all((one - other).norm() > 0.1 for one, other in pairwise(others))


def test_an_architecture_without_a_decoder_of_our_own(make_engine, tmp_path):
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    config = GPTNeoXConfig(**sizes, vocab_size=VOCABULARY, max_position_embeddings=256)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    adapters = [save_adapter(tmp_path / "base", tmp_path / "adapter", seed=1), None]
    sequences = texts(VOCABULARY, LENGTHS[:4])
    found = embed_all(make_engine(step=PIECES), tmp_path / "base", sequences, adapters)
    for place, (ids, vector) in enumerate(zip(sequences, found, strict=True)):
        expected = mean_state(tmp_path / "base", ids, adapters[place % 2])
        torch.testing.assert_close(vector, expected, atol=2e-6, rtol=1e-5, msg=str(place))


def wide_gpt2(folder):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=256, n_embd=576, n_layer=2, n_head=9)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def test_positions_that_are_rotated_otherwise_in_long_texts(make_engine, tmp_path):
    """Of longrope: read in pieces, the pieces before its switch are read again after it."""
    folder = save_family("phi3, rope longrope", tmp_path / "base")
    sequences = texts(VOCABULARY, [SWITCH - 1, SWITCH, SWITCH + 1, 3 * SWITCH])
    found = embed_all(make_engine(step=PIECES), folder, sequences)
    for ids, vector in zip(sequences, found, strict=True):
        torch.testing.assert_close(vector, mean_state(folder, ids), atol=2e-5, rtol=1e-4, msg=str(len(ids)))


# In float32 the products of torch's libraries round with the number of rows (decision 8).
@pytest.mark.parametrize(
    ("make", "dtype"), [(wide_llama, torch.float32), (wide_llama, torch.bfloat16), (wide_gpt2, torch.bfloat16)]
)
def test_the_batch_changes_no_bit(make_engine, tmp_path, make, dtype):
    folder = make(tmp_path / "base")
    adapter = save_adapter(folder, tmp_path / "adapter", seed=1)
    engine = make_engine(budget=200_000_000, dtype=dtype, step=PIECES)
    sequences = texts(VOCABULARY, LENGTHS)
    alone = [embed_all(engine, folder, [ids], [adapter if place % 2 else None]) for place, ids in enumerate(sequences)]
    running = engine.submit(greedy(folder, max_new_tokens=60, ids=sequences[0]))
    next(iter(running))
    together = embed_all(engine, folder, sequences, [None, adapter])
    for (vector,), its in zip(alone, together, strict=True):
        assert torch.equal(vector, its)
    running.cancel()


def test_answers_go_on_unchanged_beside(make_engine, tiny_llama_dir):
    engine = make_engine(step=PIECES)
    request = greedy(tiny_llama_dir, max_new_tokens=30)
    generation = engine.submit(request)
    embed_all(engine, tiny_llama_dir, texts(VOCABULARY, LENGTHS))
    assert generation.result(10) == reference(request)


def test_the_full_context_can_be_embedded_and_not_a_token_more(make_engine, tiny_gpt2_dir):
    engine = make_engine()
    model = ModelRef(tiny_gpt2_dir)
    assert engine.embed(EmbeddingRequest(model, [1] * 128)).result(10).shape == (32,)
    with pytest.raises(InputTooLong, match=r"129 tokens, and the model's context holds 128"):
        engine.embed(EmbeddingRequest(model, [1] * 129))
    with pytest.raises(ValueError, match="vocabulary"):
        engine.embed(EmbeddingRequest(model, [1_000_000]))
    with pytest.raises(ValueError, match="empty"):
        EmbeddingRequest(model, [])
    with pytest.raises(InputTooLong, match="engine_kv_cache_gb"):
        make_engine(kv_cache_bytes=20 * 512).embed(EmbeddingRequest(model, [1] * 21))


def test_it_waits_in_the_same_queue_and_reserves_its_prompt_only(make_engine, tiny_llama_dir):
    engine = make_engine(concurrency=1, queue_length=1)
    running = engine.submit(greedy(tiny_llama_dir, max_new_tokens=LONG))
    next(iter(running))
    waiting = engine.embed(EmbeddingRequest(ModelRef(tiny_llama_dir), [1, 2, 3]))
    with pytest.raises(EngineBusy):
        engine.embed(EmbeddingRequest(ModelRef(tiny_llama_dir), [1]))
    running.cancel()
    assert waiting.result(10).shape == (32,)
    (model,) = engine.stats().models
    assert (model.running, model.waiting, model.cache_tokens_used) == (0, 0, 0)


def test_one_that_is_cancelled_has_no_vector(make_engine, tiny_llama_dir):
    engine = make_engine(concurrency=1)
    running = engine.submit(greedy(tiny_llama_dir, max_new_tokens=LONG))
    next(iter(running))
    waiting = engine.embed(EmbeddingRequest(ModelRef(tiny_llama_dir), [1]))
    waiting.cancel()
    with pytest.raises(EngineClosed):
        waiting.result(10)
    running.cancel()


def test_weights_that_give_no_number_are_said(make_engine, tmp_path):
    folder = wide_llama(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.model.norm.weight.data[0] = float("nan")
    model.save_pretrained(folder)
    with pytest.raises(InferenceError, match="not finite"):
        make_engine(budget=200_000_000).embed(EmbeddingRequest(ModelRef(folder), [1, 2])).result(30)
