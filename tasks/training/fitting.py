"""Keeps a run within the available memory: plans its steps before the first, and smaller ones when memory runs out."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from configs.recipe import TrainingRecipe
from tasks.training.adapter import TrainedModel, adapted_layers, trainable_weights
from tasks.training.errors import OutOfMemory
from tasks.training.estimate import BackendName, StepShape, sizes_of
from tasks.training.memory import release_memory, what_to_change
from tasks.training.observer import PlanRecord, TrainOutcome
from tasks.training.planning import StepPlan, Workload, plan_step
from tasks.training.precision import base_dtype
from tasks.training.saved_run import SavedRun
from tasks.training.step_backend import backend_name, can_recompute

NO_ROOM = "there was no memory left with {rows}"
KILLED = "the kernel killed the attempt before this one for lack of memory, with {rows}"


def workload_of(
    model: TrainedModel,
    recipe: TrainingRecipe,
    lengths: Sequence[int],
    begun: BackendName | None,
    compute_dtype: torch.dtype | None = None,
    device: torch.device | None = None,
) -> Workload | None:
    """Return what training `model` on rows of these `lengths` amounts to; None for a model of unknown shape.

    `begun` is the backend that the run has begun with, if it has; `compute_dtype` the format of the products, if it is
    not the base weights'; `device` where it computes, if that is not where the model is.
    """
    sizes = sizes_of(model.config.to_dict())
    if sizes is None:
        return None
    sizes = replace(sizes, adapted=adapted_layers(model))
    full = recipe.method == "full"
    shape = StepShape(
        backend=backend_name(model, begun, compute_dtype),
        element_bytes=(compute_dtype or base_dtype(model)).itemsize,
        frozen_bytes=sum(weight.nbytes for weight in model.parameters() if not weight.requires_grad),
        trained_parameters=sum(weight.numel() for weight in trainable_weights(model).values()),
        rank=0 if full else recipe.lora_r,
        dropout=not full and recipe.lora_dropout > 0,
        on_cpu=(device or model.get_input_embeddings().weight.device).type == "cpu",
        dora=recipe.method == "dora",
        devices=recipe.devices,
    )
    longest_first = sorted(lengths, reverse=True)
    return Workload(sizes, shape, longest_first[0], longest_first, can_recompute(model))


class MemoryPlanner:
    """Plans the steps of one attempt at a run, and reports every plan."""

    def __init__(
        self,
        model: TrainedModel,
        recipe: TrainingRecipe,
        lengths: Sequence[int],
        compute_dtype: torch.dtype,
        saved_run: SavedRun,
        available: int,
        report: Callable[[PlanRecord], None],
        device: torch.device | None = None,
    ) -> None:
        """Take the tokens of every row, the format of the products, and the bytes free before the model was loaded.

        `device` is where it will compute, if that is not where the model is.
        """
        self._recipe = recipe
        self._saved_run = saved_run
        self._available = available
        self._report = report
        self._workload = workload_of(model, recipe, lengths, saved_run.backend, compute_dtype, device)

    def train(self, run: Callable[[StepPlan, bool], TrainOutcome], *, killed_for_memory: bool = False) -> TrainOutcome:
        """Return the outcome of `run`, which goes on from its newest checkpoint whenever it is called.

        It is given a plan, and whether there is room to write checkpoints from a copy of the state, beside the steps.
        When it runs out of memory it is called again with a smaller plan, if the recipe leaves that to the platform.
        `killed_for_memory` says that the kernel ended the attempt before this one. Raises DoesNotFit for a run that
        has not begun and can't fit, OutOfMemory where there is no smaller plan.
        """
        plan, reason = self._first(killed_for_memory)
        while True:
            record = self._record(plan, reason)
            self._report(record)
            try:
                return run(plan, record.background_saves)
            except OutOfMemory:
                smaller = self._lowered(plan)
                if smaller is None:
                    raise
                plan, reason = smaller, NO_ROOM.format(rows=plan.rows_at_once)
            # After the handler: until then the error's traceback holds the failed step's tensors.
            release_memory()

    def _first(self, killed_for_memory: bool) -> tuple[StepPlan, str | None]:
        """Return the plan to begin with: a run that has begun keeps to its own, unless it was killed for memory."""
        begun = self._saved_run.plan(self._recipe)
        if begun is not None and killed_for_memory and self._recipe.micro_batch == "auto":
            smaller = self._lowered(begun)
            if smaller is None:
                raise OutOfMemory(what_to_change(self._recipe, begun))
            return smaller, KILLED.format(rows=begun.rows_at_once)
        if begun is not None:
            return begun, None
        if self._workload is None:
            return StepPlan(self._recipe.rows_per_device, sharded=self._recipe.shardings[0]), None
        return plan_step(self._workload, self._recipe, self._available), None

    def _lowered(self, plan: StepPlan) -> StepPlan | None:
        if self._recipe.micro_batch != "auto":
            return None
        return plan.lowered(can_recompute=self._workload is not None and self._workload.can_recompute)

    def _record(self, plan: StepPlan, reason: str | None) -> PlanRecord:
        estimated, background = None, False
        if self._workload is not None:
            estimated, with_copy = self._workload.peak(plan), self._workload.peak_with_copy(plan)
            # Where memory has run out, for whatever `reason`, the estimate is not to be relied on.
            background = with_copy == estimated or (with_copy <= self._available and reason is None)
            estimated = with_copy if background else estimated
        return PlanRecord(
            rows_at_once=plan.rows_at_once,
            micro_batch=plan.micro_batch,
            gradient_accumulation=plan.accumulation(self._recipe),
            recompute=plan.recompute,
            sharded=plan.sharded,
            background_saves=background,
            estimated_bytes=estimated,
            available_bytes=self._available,
            reason=reason,
        )
