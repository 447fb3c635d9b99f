"""The numbers behind the step: rounding to bfloat16, the exponential, int8 panels."""

import numpy as np
import torch
from numba import njit

from tasks.inference.cpu.intrinsics import exponential, narrow, widen
from tasks.inference.cpu.packing import aligned, pack, pad_parts, to_int8_panels
from tasks.inference.cpu.panel_product import GROUP, PANEL


@njit
def exponentials(values, out):
    for k in range(values.size):
        out[k] = exponential(values[k])


@njit
def there_and_back(values, stored, out):
    for k in range(values.size):
        stored[k] = narrow(values[k], stored)
        out[k] = widen(stored[k])


def test_exponential_is_good_to_two_units_in_the_last_place():
    values = np.linspace(-87, 88, 100_003, dtype=np.float32)
    out = np.empty_like(values)
    exponentials(values, out)
    exact = np.exp(values.astype(np.float64))
    assert np.abs(out / exact - 1).max() < 2 * np.finfo(np.float32).eps
    alone = np.empty(1, dtype=np.float32)
    for k in range(0, values.size, 997):
        exponentials(values[k : k + 1], alone)
        assert alone[0] == out[k]


def test_bfloat16_is_rounded_as_torch_rounds():
    dice = torch.Generator().manual_seed(0)
    values = torch.randn(10_000, generator=dice) * torch.logspace(-30, 30, 10_000)
    values[:3] = torch.tensor([1.00390625, 1.01171875, 0.0])  # half way: to even
    stored, out = np.empty(10_000, dtype=np.uint16), np.empty(10_000, dtype=np.float32)
    there_and_back(values.numpy(), stored, out)
    assert torch.equal(torch.from_numpy(out), values.bfloat16().float())


def test_int8_weights_are_within_half_a_step():
    dice = torch.Generator().manual_seed(0)
    weight = torch.randn(2 * PANEL, 3 * GROUP, generator=dice)
    weight[5] = 0
    out = np.zeros((2, 3 * (GROUP + 2), PANEL), dtype=np.int8)
    to_int8_panels(weight, out)
    groups = torch.from_numpy(out).view(2, 3, GROUP + 2, PANEL)
    scales = groups[:, :, :2].reshape(2, 3, 2 * PANEL).contiguous().view(torch.bfloat16).float()
    scales = scales.view(2, 3, PANEL // 2, 2).transpose(2, 3).reshape(2, 3, 1, PANEL)
    restored = (groups[:, :, 2:].float() * scales).permute(0, 3, 1, 2).reshape(weight.shape)
    step = scales.expand(2, 3, GROUP, PANEL).permute(0, 3, 1, 2).reshape(weight.shape)
    assert bool(((restored - weight).abs() <= 0.51 * step + 1e-9).all())


def test_parts_begin_at_panels_and_lines():
    rows = torch.arange(1.0, 51.0)[:, None]
    padded = pad_parts(rows, (40, 10))
    assert padded.shape == (96, 1)
    assert padded[40:64].any().item() is False
    assert padded[64:74, 0].tolist() == [*range(41, 51)]
    assert pack([rows], [None], (40, 10), int8=False, pairs=False).panels.ctypes.data % 64 == 0
    assert aligned((3, 5), np.float32).shape == (3, 5)
