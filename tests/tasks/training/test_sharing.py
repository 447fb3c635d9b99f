"""Rows divided among threads: balanced shares, the same gradient on any number of threads, exact resumption."""

import pytest
import torch

from configs.recipe import TrainingRecipe
from tasks.training.adapter import trainable_weights
from tasks.training.packed.sharing import Threads, divide_rows
from tasks.training.step_backend import PackedBackend
from tests.tasks.training.job import Recorder, adapter_bytes, load_adapted, make_rows, run

CPU = torch.device("cpu")
DROPPING = TrainingRecipe(epochs=1, batch_size=4, learning_rate=1e-2, lora_r=4, lora_dropout=0.2)


@pytest.fixture
def threads():
    """Set how many threads torch has, until the test is over."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("lengths", "number", "shares"),
    [
        ([9, 5, 4, 8], 2, [[0, 2], [3, 1]]),
        ([7], 4, [[0]]),
        ([100, 5, 5], 2, [[0, 1, 2]]),  # one thread would be left waiting for the long row
        ([10, 10, 10, 10], 8, [[0], [1], [2], [3]]),
        ([3, 1, 2], 1, [[0, 2, 1]]),
    ],
)
def test_shares_end_together(lengths, number, shares):
    assert divide_rows(lengths, number) == shares


def step(folder, number):
    """Loss and gradient of one micro-batch, with dropout, from so many threads."""
    torch.set_num_threads(number)
    torch.manual_seed(5)
    model = load_adapted(folder, DROPPING)
    backend = PackedBackend(model)
    batch = backend.batch(make_rows(7))
    loss = backend.accumulate(batch, batch.labelled)
    gradient = torch.cat([weight.grad.flatten() for weight in trainable_weights(model).values()])
    return len(batch.shares), loss, gradient


def test_the_gradient_and_the_masks_are_the_same_on_any_number_of_threads(threads, tiny_llama_dir):
    (_, loss, gradient), *others = (step(tiny_llama_dir, number) for number in (1, 2, 3))
    assert [shares for shares, *_ in others] == [2, 3]
    for _, its_loss, its_gradient in others:
        assert its_loss == pytest.approx(loss, rel=1e-6)
        torch.testing.assert_close(its_gradient, gradient, rtol=1e-4, atol=1e-6)


def test_a_paused_run_on_threads_equals_an_uninterrupted_one(threads, tiny_llama_dir, tmp_path):
    threads(2)
    recorders = [Recorder(), Recorder(pause_after=2), Recorder()]
    adapters = []
    for recorder, folder in zip(recorders, ("whole", "paused", "paused"), strict=True):
        model = load_adapted(tiny_llama_dir, DROPPING)
        run(model, DROPPING, tmp_path / folder, recorder)
        adapters.append(adapter_bytes(model, tmp_path / f"{folder}-adapter"))
    whole, before, after = (recorder.trace() for recorder in recorders)
    assert before + after == whole
    assert adapters[2] == adapters[0]


def test_an_error_is_raised_when_no_share_is_computed_any_more(threads):
    threads(2)
    done = []

    def compute(share):
        if share == 0:
            raise MemoryError("no room")
        done.append(share)

    with pytest.raises(MemoryError, match="no room"):
        Threads(CPU).map(compute, [0, 1])
    assert done == [1]
