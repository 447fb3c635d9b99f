"""A run's random numbers are its own, and come back exactly or not at all."""

import pytest
import torch

from tasks.training.errors import CheckpointMismatch
from tasks.training.rng import private_rng, restore_rng, rng_state

CPU = torch.device("cpu")


def test_a_run_has_its_own_random_numbers_and_leaves_the_processs_alone():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with private_rng(CPU, 42):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with private_rng(CPU, 42):
        assert torch.equal(torch.rand(3), first)


def test_the_state_comes_back_exactly():
    with private_rng(CPU, 42):
        torch.randn(5)
        state = rng_state(CPU)
        expected = torch.nn.functional.dropout(torch.ones(100))
        torch.rand(7)
        restore_rng(CPU, state)
        assert torch.equal(torch.nn.functional.dropout(torch.ones(100)), expected)


CUDA_TOO = {"cpu": torch.get_rng_state(), "cuda": torch.zeros(16, dtype=torch.uint8)}
TOO_SHORT = {"cpu": torch.zeros(8, dtype=torch.uint8)}
NOT_BYTES = {"cpu": torch.zeros(5056)}


@pytest.mark.parametrize(
    "states", [{}, CUDA_TOO, TOO_SHORT, NOT_BYTES], ids=["none", "another device's too", "too short", "not bytes"]
)
def test_a_state_that_does_not_fit_is_an_error(states):
    with private_rng(CPU), pytest.raises(CheckpointMismatch):
        restore_rng(CPU, states)
