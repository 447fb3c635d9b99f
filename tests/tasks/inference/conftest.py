"""Engines, adapters and reference answers for the tests of inference."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LogitsProcessor

from tasks.inference.engine import Engine, GenerationRequest, Limits, ModelRef
from tests.tasks.inference.adapters import save_adapter

PROMPT = "The quick brown fox"


@pytest.fixture(autouse=True)
def one_thread():
    """Tiny products are faster on one thread, and threads that wait for each other slow the tests beside."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def adapters_dir(tiny_llama_dir, tiny_gpt2_dir, tmp_path_factory):
    """Adapters `llama-1` and `llama-2` of the tiny Llama and `gpt2-1` of the tiny GPT-2."""
    folder = tmp_path_factory.mktemp("adapters")
    save_adapter(tiny_llama_dir, folder / "llama-1", seed=1)
    save_adapter(tiny_llama_dir, folder / "llama-2", seed=2, rank=2)
    save_adapter(tiny_gpt2_dir, folder / "gpt2-1", seed=3)
    return folder


@pytest.fixture
def make_engine():
    """Build engines that are closed after the test."""
    engines = []

    def make(budget=10_000_000, dtype=torch.float32, kv_cache_bytes=5_000_000, step=None, **limits) -> Engine:
        of_each = Limits(**{"concurrency": 8} | limits)
        engine = Engine(dtype, torch.device("cpu"), budget, kv_cache_bytes, of_each, step)
        engines.append(engine)
        return engine

    yield make
    closed = [engine.close() for engine in engines]
    assert all(closed)


def prompt_ids(folder: Path, prompt: str = PROMPT):
    return AutoTokenizer.from_pretrained(folder)(prompt)["input_ids"]


def greedy(weights: Path, adapter: Path | None = None, max_new_tokens: int = 20, **options) -> GenerationRequest:
    """A greedy request without end token: exactly `max_new_tokens` come back."""
    ids = options.pop("ids", None) or prompt_ids(weights)
    return GenerationRequest(ModelRef(weights, adapter), ids, max_new_tokens, temperature=0.0, **options)


def reference(request: GenerationRequest):
    """What transformers' own `generate` answers to a greedy request."""
    return references([request])[0]


def references(requests: Sequence[GenerationRequest]):
    """What transformers' own `generate` answers to greedy requests of one model, one by one."""
    of = requests[0].model
    model = AutoModelForCausalLM.from_pretrained(of.weights, dtype=torch.float32)
    if of.adapter is not None:
        model = PeftModel.from_pretrained(model, of.adapter)
    return [_continuation(model, request) for request in requests]


class Counted(LogitsProcessor):  # type: ignore[misc]  # transformers has no types here
    """OpenAI's frequency and presence penalties by their formula, which transformers does not have."""

    def __init__(self, request: GenerationRequest) -> None:
        self.request = request

    def __call__(self, input_ids, scores):
        answer = input_ids[0, len(self.request.prompt_ids) :].tolist()
        lowered = scores.clone()
        for token_id in set(answer):
            lowered[0, token_id] -= answer.count(token_id) * self.request.frequency_penalty
            lowered[0, token_id] -= self.request.presence_penalty
        return lowered


def _continuation(model, request: GenerationRequest):
    ids = torch.tensor([request.prompt_ids])
    output = model.eval().generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=request.max_new_tokens,
        min_new_tokens=request.min_new_tokens or None,
        eos_token_id=sorted(request.end_ids) or [model.config.get_text_config().vocab_size + 1],
        pad_token_id=0,
        repetition_penalty=request.repetition_penalty,
        sequence_bias={(token_id,): bias for token_id, bias in request.logit_bias.items()} or None,
        logits_processor=[Counted(request)],
    )
    return output[0, ids.shape[1] :].tolist()
