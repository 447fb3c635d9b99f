"""Takes the state of a live run between two steps, and puts a checkpoint's state back into it, exactly."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from configs.recipe import TrainingRecipe
from tasks.training.adapter import TrainedModel, trainable_weights
from tasks.training.checkpoint import (
    Checkpoint,
    Progress,
    TrainingState,
    best_checkpoint,
    discard_newer,
    latest_checkpoint,
    save_checkpoint,
)
from tasks.training.errors import CheckpointMismatch
from tasks.training.estimate import PathName
from tasks.training.kept import folder_name
from tasks.training.planning import StepPlan
from tasks.training.ranks import Ranks
from tasks.training.rng import restore_rng, rng_state
from tasks.training.sharding import divided_like, whole
from tasks.training.step_backend import TrainingPath


def run_identity(
    model: TrainedModel, recipe: TrainingRecipe, data_fingerprint: str, n_rows: int, path: TrainingPath[Any]
) -> dict[str, Any]:
    """Return, as JSON values, what must be the same for a resumed run to go on bit for bit."""
    return _recipe_fields(recipe) | {
        "data_fingerprint": data_fingerprint,
        "rows": n_rows,
        "device": model.get_input_embeddings().weight.device.type,
        "base_dtype": str(path.dtype),
        "path": path.name,
    }


def begun_path(root: Path) -> PathName | None:
    """Return the name of the path that the run in these checkpoints has taken so far; None if it has not begun."""
    checkpoint = _begun(root)
    return None if checkpoint is None else (_unsaid() | checkpoint.state.identity)["path"]


def begun_plan(root: Path, recipe: TrainingRecipe) -> StepPlan | None:
    """Return how the run in these checkpoints has cut its steps so far; None if it has not begun."""
    checkpoint = _begun(root)
    # What an earlier version does not say is what it always did.
    return None if checkpoint is None else checkpoint.state.progress.plan or StepPlan(recipe.rows_per_device)


def _begun(root: Path) -> Checkpoint | None:
    return latest_checkpoint(root, lambda _: None)  # `restore` looks again, and tells what is wrong with it


def _unsaid() -> dict[str, Any]:
    """Return what a run was whose checkpoint, made by an earlier version, does not say it."""
    return _recipe_fields(TrainingRecipe()) | {"path": "padded"}


def _recipe_fields(recipe: TrainingRecipe) -> dict[str, Any]:
    # A subclass of the recipe says more (the job's name) than the numbers depend on.
    fields = recipe.model_dump(mode="json", include=set(TrainingRecipe.model_fields))
    return {f"recipe.{name}": value for name, value in fields.items()}


def load_trained(model: TrainedModel, root: Path, step: int) -> None:
    """Give `model`, fresh from its method's `load`, the weights that the checkpoint of `step` has.

    Raises BestCheckpointLost when the checkpoint is damaged or gone.
    """
    _copy_weights(best_checkpoint(root, step).state.adapter, trainable_weights(model))


class Snapshots:
    """Saves and restores one run: its weights, optimizer and random states, in one folder of checkpoints.

    All ranks save and restore together: rank 0 writes, with every rank's random state, and each reads for itself.
    """

    def __init__(
        self, root: Path, identity: dict[str, Any], model: TrainedModel, optimizer: torch.optim.Optimizer, ranks: Ranks
    ) -> None:
        self._root = root
        self._identity = identity
        self._weights = trainable_weights(model)
        self._optimizer = optimizer
        self._ranks = ranks
        self._device: torch.device = model.get_input_embeddings().weight.device

    def save(self, progress: Progress) -> Path:
        """Write a checkpoint of the present state, on rank 0, and return its folder."""
        rng = {
            _of_rank(rank, name): state
            for rank, states in enumerate(self._ranks.gather(rng_state(self._device)))
            for name, state in states.items()
        }
        adapter = self._gathered({name: weight.detach() for name, weight in self._weights.items()})
        optimizer = self._gathered(
            {
                f"{name}/{moment}": value
                for name, weight in self._weights.items()
                for moment, value in self._optimizer.state[weight].items()
            }
        )
        if self._ranks.rank > 0:
            return self._root / folder_name(progress.cursor.step)
        state = TrainingState(progress, self._identity, adapter, optimizer, rng)
        return save_checkpoint(self._root, state)

    def restore(self, log: Callable[[str], None]) -> Progress | None:
        """Load the newest complete checkpoint, if there is one, and return how far it had come.

        Raises CheckpointMismatch when it belongs to another run or can't be restored exactly.
        """
        checkpoint = latest_checkpoint(self._root, log)
        # Read by all before one of them removes any, or writes the next.
        self._ranks.any(False)
        if checkpoint is None:
            self._discard_after(-1)
            return None
        checkpoint.require_match(self._identity, _unsaid())
        state = checkpoint.state
        _copy_weights(state.adapter, self._weights)
        self._restore_optimizer(state.optimizer, started=state.progress.cursor.step > 0)
        restore_rng(self._device, _own(self._ranks, state.rng))
        self._discard_after(state.progress.cursor.step)
        return state.progress

    def load_best_weights(self, step: int) -> None:
        """Give the model the weights that the checkpoint of `step`, the best one, has; the run can't go on after that.

        Raises BestCheckpointLost when the checkpoint is damaged or gone, CheckpointMismatch when it is another run's.
        """
        checkpoint = best_checkpoint(self._root, step)
        checkpoint.require_match(self._identity, _unsaid())
        _copy_weights(checkpoint.state.adapter, self._weights)

    def _gathered(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors in main memory on rank 0, those that are divided put together; nothing on the others."""
        gathered = {}
        for name, tensor in tensors.items():
            value = whole(tensor)
            if self._ranks.rank == 0:
                gathered[name] = value.cpu()
        return gathered

    def _discard_after(self, step: int) -> None:
        if self._ranks.rank == 0:
            discard_newer(self._root, step)

    def _restore_optimizer(self, saved: dict[str, Tensor], started: bool) -> None:
        expected: dict[str, Tensor] = {}
        if started:  # AdamW makes its state at the first step
            for name, weight in self._weights.items():
                expected |= {f"{name}/step": torch.zeros(()), f"{name}/exp_avg": weight, f"{name}/exp_avg_sq": weight}
        _require_same(saved, expected, "optimizer state")
        for key in expected:
            name, _, part = key.rpartition("/")
            weight = self._weights[name]
            # A copy: the loaded tensors share the memory of the file's bytes.
            value = saved[key].clone().to(weight.device)
            self._optimizer.state[weight][part] = divided_like(value, expected[key])


def _copy_weights(saved: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    _require_same(saved, weights, "weights")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(divided_like(saved[name], weight))


def _of_rank(rank: int, name: str) -> str:
    return name if rank == 0 else f"{name} of rank {rank}"


def _own(ranks: Ranks, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: states[key] for name in ("cpu", "cuda") if (key := _of_rank(ranks.rank, name)) in states}


def _require_same(saved: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str) -> None:
    """Raise CheckpointMismatch unless names and shapes agree; copying would stretch a tensor of another shape."""
    differing = sorted(
        name
        for name in saved.keys() | expected.keys()
        if name not in saved or name not in expected or saved[name].shape != expected[name].shape
    )
    if differing:
        raise CheckpointMismatch(
            f"the checkpoint's {what} are not those of this model: {', '.join(differing[:3])}"
            + (f" and {len(differing) - 3} more differ" if len(differing) > 3 else " differ")
        )
