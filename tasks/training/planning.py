"""Plans a step before training starts: how many rows at once, and whether activations are kept or computed again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from configs.recipe import TrainingRecipe
from tasks.training.errors import DoesNotFit
from tasks.training.estimate import ModelSizes, StepShape, copy_bytes, loading_bytes, step_bytes

GB = 1e9


@dataclass(frozen=True)
class StepPlan:
    """How an optimizer step is cut to fit in memory; its rows and its gradient stay the same."""

    micro_batch: int
    """Rows whose activations are in a device's memory at once."""
    recompute: bool = False
    """Activation checkpointing: layers keep only their input and are recomputed in the backward pass."""
    sharded: bool = False
    """Whether the devices divide the weights among them, and gather each layer when it is computed."""

    def lowered(self, *, can_recompute: bool) -> "StepPlan | None":
        """Return the next smaller plan: half the rows, or of one row recomputing; None if there is no smaller one."""
        if self.micro_batch > 1:
            return replace(self, micro_batch=self.micro_batch // 2)
        return replace(self, recompute=True) if can_recompute and not self.recompute else None

    @property
    def rows_at_once(self) -> str:
        """Say it in words, for a sentence."""
        rows = "1 row at once" if self.micro_batch == 1 else f"{self.micro_batch} rows at once"
        recompute = ", activations computed again" if self.recompute else ""
        return f"{rows}{recompute}{', weights divided among the devices' if self.sharded else ''}"

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
        """Return the most memory, in bytes, that the steps take at once; with rows cut at `longest`, if given.

        On a CPU that of all its processes, which share it; on GPUs that of each.
        """
        cut = longest or self.longest
        known = self.lengths[: plan.micro_batch] if self.lengths else [cut] * plan.micro_batch
        shape = self._shape(plan)
        of_one = step_bytes(self.sizes, shape, [min(n, cut) for n in known], recompute=plan.recompute)
        of_all = of_one * (shape.devices if shape.on_cpu else 1)
        return max(of_all, loading_bytes(shape)) if plan.sharded else of_all

    def peak_with_copy(self, plan: StepPlan) -> int:
        """Return the same of a run whose checkpoints are written from a copy beside the steps."""
        return self.peak(plan) + copy_bytes(self._shape(plan))

    def _shape(self, plan: StepPlan) -> StepShape:
        # Sharded layers are transformers' own modules: the packed backend does not support them.
        return replace(self.shape, backend="padded", sharded=True) if plan.sharded else self.shape


def plan_step(workload: Workload, recipe: TrainingRecipe, available: int) -> StepPlan:
    """Return the fastest plan that takes no more than `available` bytes.

    As many rows at once as the recipe says if they fit, else fewer if it allows that (`micro_batch: auto`); activations
    are computed again only where nothing else fits, and weights divided among the devices, if the recipe leaves that
    open (`sharding: auto`), only where nothing fits with unsharded ones. Raises DoesNotFit with what would fit.
    """
    fewest = 1 if recipe.micro_batch == "auto" else recipe.rows_per_device
    plan = _fastest(workload, recipe, available, fewest, recipe.shardings)
    if plan is None:
        raise _does_not_fit(workload, recipe, available, fewest)
    return plan


def _fastest(
    workload: Workload, recipe: TrainingRecipe, available: int, fewest: int, shardings: Sequence[bool]
) -> StepPlan | None:
    for sharded in shardings:
        for recompute in (False, True) if workload.can_recompute else (False,):
            kind = StepPlan(fewest, recompute, sharded)
            rows = _most_rows(workload, available, kind, recipe.rows_per_device)
            if rows is not None:
                return replace(kind, micro_batch=rows)
    return None


def _most_rows(workload: Workload, available: int, fewest: StepPlan, most: int) -> int | None:
    return _largest(
        fewest.micro_batch,
        most,
        lambda rows: workload.peak(replace(fewest, micro_batch=rows)) <= available,
    )


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
    longest = workload.longest
    kind = min((StepPlan(fewest, workload.can_recompute, sharded) for sharded in recipe.shardings), key=workload.peak)
    least, one = workload.peak(kind), replace(kind, micro_batch=1)
    rows = _most_rows(workload, available, one, fewest - 1)
    length = None
    on_each = "" if recipe.devices == 1 else f" on each of {recipe.devices} devices"
    needed = (
        f"Training takes about {least / GB:.2f} GB of memory with {StepPlan(fewest).rows_at_once}{on_each} of up to "
        f"{longest} tokens, and there are {available / GB:.2f} GB"
    )
    if rows is None:
        length = _largest(1, longest - 1, lambda tokens: workload.peak(one, tokens) <= available)
    may_shard = recipe.model_copy(update={"sharding": "auto"})
    shards = _fastest(workload, may_shard, available, fewest, may_shard.shardings) is not None
    if shards:
        advice = "sharding auto would fit: the devices divide the weights among them"
    elif rows is not None:
        accumulation = StepPlan(rows).accumulation(recipe)
        advice = (
            f"batch_size {rows * recipe.devices} would fit (with gradient_accumulation {accumulation} for about as "
            "many rows a step), or set micro_batch to auto"
        )
    elif length is not None:
        advice = f"max_seq_length {length} would fit, 1 row at once (batch_size 1, or micro_batch auto)"
    else:
        advice = "not even a row of one token would fit: lower lora_r, free memory or take a smaller model"
    return DoesNotFit(f"{needed}: {advice}.", least, available, rows and rows * recipe.devices, length, shards)
