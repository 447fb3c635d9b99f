"""The learning rate: transformers' shapes, without the wasted first step."""

import pytest
import torch
from transformers import get_scheduler

from configs.recipe import TrainingRecipe
from tasks.training.schedule import learning_rate_at


def rates(total: int, **changes) -> list[float]:
    recipe = TrainingRecipe(**({"learning_rate": 1.0, "warmup_ratio": 0.0} | changes))
    return [learning_rate_at(step, total, recipe) for step in range(1, total + 1)]


def test_values():
    assert rates(4) == [1.0, 0.75, 0.5, 0.25]
    assert rates(4, lr_scheduler="constant") == [1.0] * 4
    assert rates(4, lr_scheduler="cosine") == pytest.approx([1, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert rates(8, warmup_ratio=0.375) == pytest.approx([0.25, 0.5, 0.75, 1, 0.8, 0.6, 0.4, 0.2])
    assert rates(1, warmup_ratio=0.9) == [1.0]


@pytest.mark.parametrize("shape", ["linear", "cosine", "constant"])
@pytest.mark.parametrize("warmup", [0, 5])
def test_after_warm_up_it_is_transformers_schedule(shape, warmup):
    total, name = 20, "constant_with_warmup" if shape == "constant" else shape
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = get_scheduler(name, optimizer, num_warmup_steps=warmup, num_training_steps=total)
    theirs = []
    for _ in range(total):
        theirs.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    ours = rates(total, lr_scheduler=shape, warmup_ratio=warmup / total)
    assert ours[warmup:] == pytest.approx(theirs[warmup:])
    assert 0 < ours[0] <= 1
