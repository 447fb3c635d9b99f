"""Models asked for at the same moment are loaded one after the other, and the process is afterwards what it was."""

import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch
from transformers import PreTrainedModel

from tasks.models import process_state
from tasks.models.errors import WeightsError
from tasks.models.loading import attach_adapter, load_base_model
from tests.tiny_families import save_family

CPU = torch.device("cpu")
FAMILIES: dict[str, tuple[str, dict[str, bool]]] = {
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-untied": ("llama", {"tie_word_embeddings": False}),
    "gpt2-tied": ("gpt2", {}),
    "mistral-untied": ("mistral", {"tie_word_embeddings": False}),
    "qwen2-tied": ("qwen2", {"tie_word_embeddings": True}),
    "gemma-tied": ("gemma", {}),
    "gpt_neox-untied": ("gpt_neox", {"tie_word_embeddings": False}),
    "opt-tied": ("opt", {}),
}
ROUNDS = 3


@pytest.fixture(scope="module")
def family_dirs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("families")
    for name, (family, fields) in FAMILIES.items():
        save_family(family, folder / name, **fields)
    return folder


def parameters(model):
    return {name: weight.clone() for name, weight in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(
        weight.dtype == second[name].dtype and torch.equal(weight, second[name]) for name, weight in first.items()
    )


def test_models_loaded_at_once_are_those_loaded_alone(family_dirs):
    asked = [(name, dtype) for name in FAMILIES for dtype in (torch.bfloat16, torch.float32)]
    alone = {one: parameters(load_base_model(family_dirs / one[0], one[1], CPU)) for one in asked}
    for _ in range(ROUNDS):
        gate = threading.Barrier(len(asked))

        def load(name, dtype, gate=gate):
            gate.wait()
            return parameters(load_base_model(family_dirs / name, dtype, CPU))

        with ThreadPoolExecutor(len(asked)) as threads:
            together = list(threads.map(load, *zip(*asked, strict=True)))
        for one, found in zip(asked, together, strict=True):
            assert same(found, alone[one]), one
        assert torch.get_default_dtype() is torch.float32
        assert process_state.damage() is None


def test_a_load_that_fails_leaves_the_process_as_it_was(family_dirs, tmp_path):
    with pytest.raises(WeightsError):
        load_base_model(tmp_path / "absent", torch.bfloat16, CPU)
    (tmp_path / "config.json").write_text((family_dirs / "llama-tied" / "config.json").read_text())
    (tmp_path / "model.safetensors").write_bytes((family_dirs / "gpt2-tied" / "model.safetensors").read_bytes())
    with pytest.raises(WeightsError):
        load_base_model(tmp_path, torch.bfloat16, CPU)
    assert torch.get_default_dtype() is torch.float32
    assert process_state.damage() is None


@pytest.mark.parametrize("left_over", ["dtype", "tie_weights", "linspace"])
def test_what_a_load_leaves_changed_is_told_and_put_back_by_the_next(family_dirs, left_over):
    """As after an overlap with a load that did not ask: a library's own."""
    before = PreTrainedModel.tie_weights, torch.linspace
    try:
        if left_over == "dtype":
            torch.set_default_dtype(torch.bfloat16)
        elif left_over == "tie_weights":
            PreTrainedModel.tie_weights = lambda *_args, **_options: None
        else:
            torch.linspace = partial(before[1], device="cpu")
        assert process_state.damage() is not None
        with process_state.loading():
            pass
        assert process_state.damage() is None
        assert load_base_model(family_dirs / "gpt2-tied", torch.float32, CPU).lm_head.weight.dtype == torch.float32
    finally:
        torch.set_default_dtype(torch.float32)
        PreTrainedModel.tie_weights, torch.linspace = before


def test_adapters_are_attached_while_models_are_loaded(tiny_llama_dir, adapters_dir, family_dirs):
    ids = torch.tensor([[1, 2, 3]])
    expected = attach_adapter(load_base_model(tiny_llama_dir, torch.float32, CPU), adapters_dir / "llama-1")(ids).logits
    gate = threading.Barrier(8)

    def attach(_):
        gate.wait()
        model = load_base_model(tiny_llama_dir, torch.float32, CPU)
        return attach_adapter(model, adapters_dir / "llama-1")(ids).logits

    def load(name):
        gate.wait()
        load_base_model(family_dirs / name, torch.bfloat16, CPU)

    with ThreadPoolExecutor(8) as threads:
        loads = [threads.submit(load, name) for name in list(FAMILIES)[:4]]
        attached = [threads.submit(attach, number) for number in range(4)]
        for one in loads:
            one.result()
        assert all(torch.equal(one.result(), expected) for one in attached)
