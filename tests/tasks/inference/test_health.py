"""The engine says of itself whether it can answer, not only that its process runs; many bases asked for at once."""

import threading
import time

import pytest
import torch
from transformers import PreTrainedModel

from tasks.inference.engine import GenerationRequest, ModelRef
from tasks.inference.errors import InferenceError
from tasks.inference.probe import DeviceProbe
from tests.tasks.inference.conftest import greedy, prompt_ids, reference
from tests.tiny_models import save_tiny_gpt2, save_tiny_llama


def told_by(probe, seconds=10.0):
    """What the probe says of the sum that its first call has begun."""
    probe.trouble()
    deadline = time.monotonic() + seconds
    while threading.active_count() > 1 and any(thread.name == "device-probe" for thread in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return probe.trouble()


def test_a_device_is_asked_to_compute():
    assert told_by(DeviceProbe(torch.device("cpu"), 60, 1000)) is None
    assert "meta can't compute" in told_by(DeviceProbe(torch.device("meta"), 60, 1000))


def test_a_device_that_hangs_is_told():
    probe = DeviceProbe(torch.device("cpu"), -1, 1000)  # whatever it does, it takes longer than that
    assert "has not finished a sum" in probe.trouble()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_decode_thread_that_died_is_told_until_its_base_answers_again(make_engine, endless_llama_dir):
    engine = make_engine()
    assert engine.generate(greedy(endless_llama_dir, max_new_tokens=2))
    assert engine.trouble() is None

    def broken(token_id):
        if token_id is None:
            raise RuntimeError("the listener broke")

    (worker,) = [thread for thread in threading.enumerate() if thread.name == f"decode-{endless_llama_dir.name}"]
    beside = engine.submit(greedy(endless_llama_dir, max_new_tokens=4000))
    engine.submit(greedy(endless_llama_dir, max_new_tokens=2), broken)
    worker.join(20)
    with pytest.raises(InferenceError, match="the listener broke"):
        beside.result(20)
    assert "the listener broke" in engine.trouble()
    assert engine.generate(greedy(endless_llama_dir, max_new_tokens=2))
    assert engine.trouble() is None


def test_a_poisoned_process_is_told_and_mended_by_the_next_load(make_engine, tiny_gpt2_dir):
    engine = make_engine()
    before = PreTrainedModel.tie_weights
    try:
        PreTrainedModel.tie_weights = lambda *_args, **_options: None
        assert "tie_weights" in engine.trouble()
        assert engine.generate(greedy(tiny_gpt2_dir, max_new_tokens=2))
    finally:
        PreTrainedModel.tie_weights = before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bases_asked_for_at_once_answer_as_alone_and_a_seed_says_the_same(make_engine, tmp_path, dtype):
    folders = [save_tiny_llama(tmp_path / f"llama-{n}") for n in range(3)]
    folders += [save_tiny_gpt2(tmp_path / f"gpt2-{n}") for n in range(3)]
    engine = make_engine(budget=100_000_000, dtype=dtype)

    def seeded(folder):
        return GenerationRequest(ModelRef(folder, None), prompt_ids(folder), 40, temperature=1.0, top_p=0.95, seed=7)

    alone = {folder: make_engine(dtype=dtype).generate(seeded(folder)) for folder in folders[:1] + folders[3:4]}
    generations = [engine.submit(seeded(folder)) for folder in folders]
    answers = [generation.result(60) for generation in generations]
    assert answers == [alone[folders[0]]] * 3 + [alone[folders[3]]] * 3
    # One that has been loaded for long draws the same numbers while others are loaded in another precision.
    fresh = [save_tiny_gpt2(tmp_path / f"fresh-{n}") for n in range(3)]
    loads = [engine.submit(greedy(folder, max_new_tokens=2)) for folder in fresh]
    again = [engine.generate(seeded(folders[0])) for _ in range(5)]
    assert again == [alone[folders[0]]] * 5
    for load in loads:
        load.result(60)
    assert torch.get_default_dtype() is torch.float32
    assert engine.trouble() is None


def test_what_was_loaded_at_once_equals_transformers(make_engine, tmp_path):
    folders = [save_tiny_llama(tmp_path / "llama"), save_tiny_gpt2(tmp_path / "gpt2")]
    engine = make_engine(budget=100_000_000)
    requests = [greedy(folder) for folder in folders]
    generations = [engine.submit(request) for request in requests]
    assert [each.result(60) for each in generations] == [reference(request) for request in requests]
