"""The learning rate as a pure function of the step, so that a resumed run needs no scheduler state."""

import math

from configs.recipe import TrainingRecipe


def learning_rate_at(step: int, total_steps: int, recipe: TrainingRecipe) -> float:
    """Return the rate of update number `step`, counted from 1 to `total_steps`.

    The shapes are those of transformers' `get_*_schedule_with_warmup`: up in a straight line over the warm-up, then
    down to zero by a line or half a cosine, or constant. Warm-up here starts one notch above zero, as an update with
    rate zero is wasted, and never takes the whole run.
    """
    warmup = min(round(recipe.warmup_ratio * total_steps), total_steps - 1)
    if step <= warmup:
        return recipe.learning_rate * step / (warmup + 1)
    done = (step - 1 - warmup) / (total_steps - warmup)
    match recipe.lr_scheduler:
        case "linear":
            return recipe.learning_rate * (1 - done)
        case "cosine":
            return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * done))
        case "constant":
            return recipe.learning_rate
