"""Plans a step before training starts: how many rows at once, and whether activations are kept or computed again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from configs.recipe import TrainingRecipe
from tasks.lora.errors import DoesNotFit
from tasks.lora.estimate import ModelSizes, StepShape, step_bytes

GB = 1e9


@dataclass(frozen=True)
class StepPlan:
    """How an optimizer step is cut so that it fits; its rows, and what is learned from them, stay the same."""

    micro_batch: int
    """Rows whose activations are in a device's memory at once."""
    recompute: bool = False
    """Whether layers keep their input alone and are computed again in the backward pass: slower, smaller."""

    def lowered(self, *, can_recompute: bool) -> "StepPlan | None":
        """Return the next smaller plan: half the rows, or of one row recomputing; None if there is no smaller one."""
        if self.micro_batch > 1:
            return StepPlan(self.micro_batch // 2, self.recompute)
        return StepPlan(1, recompute=True) if can_recompute and not self.recompute else None

    @property
    def rows_at_once(self) -> str:
        """Say it in words, for a sentence."""
        rows = "1 row at once" if self.micro_batch == 1 else f"{self.micro_batch} rows at once"
        return f"{rows}, activations computed again" if self.recompute else rows

    def accumulation(self, recipe: TrainingRecipe) -> int:
        """Return how many micro-batches, one after the other, make the recipe's optimizer step."""
        return -(-recipe.batch_size * recipe.gradient_accumulation // (self.micro_batch * recipe.devices))


@dataclass(frozen=True)
class Workload:
    """What is trained: the model, the kind of step, and the rows."""

    sizes: ModelSizes
    shape: StepShape
    longest: int
    """Tokens of the longest row that there may be."""
    lengths: Sequence[int] | None = None
    """Tokens of every row, the longest first; None where only `longest` is known: then every row is that long."""
    can_recompute: bool = True

    def peak(self, plan: StepPlan, longest: int | None = None) -> int:
        """Return the most memory, in bytes, that the run takes at once; with rows cut at `longest`, if given.

        On a CPU that of all its processes, which share it; on GPUs that of each.
        """
        cut = longest or self.longest
        known = self.lengths[: plan.micro_batch] if self.lengths else [cut] * plan.micro_batch
        of_one = step_bytes(self.sizes, self.shape, [min(n, cut) for n in known], recompute=plan.recompute)
        return of_one * (self.shape.devices if self.shape.on_cpu else 1)


def plan_step(workload: Workload, recipe: TrainingRecipe, available: int) -> StepPlan:
    """Return the fastest plan that takes no more than `available` bytes.

    As many rows at once as the recipe says if they fit, else fewer if it allows that (`micro_batch: auto`); activations
    are computed again only where nothing else fits. Raises DoesNotFit with what would fit.
    """
    fewest = 1 if recipe.micro_batch == "auto" else recipe.rows_per_device
    for recompute in (False, True) if workload.can_recompute else (False,):
        rows = _most_rows(workload, available, fewest, recipe.rows_per_device, recompute)
        if rows is not None:
            return StepPlan(rows, recompute)
    raise _does_not_fit(workload, recipe, available, fewest)


def _most_rows(workload: Workload, available: int, low: int, high: int, recompute: bool) -> int | None:
    return _largest(low, high, lambda rows: workload.peak(StepPlan(rows, recompute)) <= available)


def _largest(low: int, high: int, fits: Callable[[int], bool]) -> int | None:
    """Return the largest number from `low` to `high` that fits, given that smaller ones do; None if none does."""
    if high < low or not fits(low):
        return None
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _does_not_fit(workload: Workload, recipe: TrainingRecipe, available: int, fewest: int) -> DoesNotFit:
    """Return the error that says what is needed, what there is, and what would fit."""
    longest, recompute = workload.longest, workload.can_recompute
    least = workload.peak(StepPlan(fewest, recompute))
    rows = _most_rows(workload, available, 1, fewest - 1, recompute)
    length = None
    on_each = "" if recipe.devices == 1 else f" on each of {recipe.devices} devices"
    needed = (
        f"Training takes about {least / GB:.2f} GB of memory with {StepPlan(fewest).rows_at_once}{on_each} of up to "
        f"{longest} tokens, and there are {available / GB:.2f} GB"
    )
    if rows is None:
        length = _largest(1, longest - 1, lambda tokens: workload.peak(StepPlan(1, recompute), tokens) <= available)
    if rows is not None:
        accumulation = StepPlan(rows).accumulation(recipe)
        advice = (
            f"batch_size {rows * recipe.devices} would fit (with gradient_accumulation {accumulation} for about as "
            "many rows a step), or set micro_batch to auto"
        )
    elif length is not None:
        advice = f"max_seq_length {length} would fit, 1 row at once (batch_size 1, or micro_batch auto)"
    else:
        advice = "not even a row of one token would fit: lower lora_r, free memory or take a smaller model"
    return DoesNotFit(f"{needed}: {advice}.", least, available, rows and rows * recipe.devices, length)
