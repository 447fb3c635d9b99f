"""The settings' words for device and precision."""

import pytest
import torch

from tasks.models.device import choose_device, choose_dtype, has_native_bfloat16

CPU = torch.device("cpu")


def test_auto_is_what_the_machine_has():
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert choose_dtype("auto", CPU) == (torch.bfloat16 if has_native_bfloat16(CPU) else torch.float32)


def test_names_are_taken_at_their_word():
    assert choose_device("cpu") == CPU
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16


def test_a_gpu_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="cuda:99"):
        choose_device("cuda:99")
