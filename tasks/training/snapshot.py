"""Takes the state of a live run between two steps, and puts a checkpoint's state back into it, exactly."""

from collections.abc import Mapping
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
)
from tasks.training.errors import CheckpointMismatch
from tasks.training.ranks import SINGLE_RANK, Ranks
from tasks.training.rng import restore_rng, rng_state
from tasks.training.saved_run import FIRST_BACKEND
from tasks.training.sharding import full_tensor, sharded_like
from tasks.training.step_backend import StepBackend


def run_identity(
    model: TrainedModel, recipe: TrainingRecipe, data_fingerprint: str, n_rows: int, backend: StepBackend[Any]
) -> dict[str, Any]:
    """Return, as JSON values, what must be the same for a resumed run to go on bit for bit."""
    return _recipe_fields(recipe) | {
        "data_fingerprint": data_fingerprint,
        "rows": n_rows,
        "device": model.get_input_embeddings().weight.device.type,
        "compute_dtype": str(backend.dtype),
        "backend": backend.name,
    }


def _defaults() -> dict[str, Any]:
    """Return the identity fields of a run whose checkpoint, written by an earlier version, lacks them."""
    return _recipe_fields(TrainingRecipe()) | {"backend": FIRST_BACKEND}


def _recipe_fields(recipe: TrainingRecipe) -> dict[str, Any]:
    # A subclass of the recipe has more fields (the job's name); they do not change the numbers.
    fields = recipe.model_dump(mode="json", include=set(TrainingRecipe.model_fields))
    return {f"recipe.{name}": value for name, value in fields.items()}


def load_trained(model: TrainedModel, root: Path, step: int) -> None:
    """Give `model`, fresh from its method's `load`, the weights that the checkpoint of `step` has.

    Raises BestCheckpointLost when the checkpoint is damaged or gone.
    """
    _copy_weights(best_checkpoint(root, step).state.weights, trainable_weights(model), SINGLE_RANK)


class Snapshots:
    """Takes and restores the state of one run: its weights, optimizer and random states, in one folder of checkpoints.

    All ranks call its methods together. Rank 0 alone gets the state, every rank's random one in it, and reads for all.
    """

    def __init__(
        self, root: Path, identity: dict[str, Any], model: TrainedModel, optimizer: torch.optim.Optimizer, ranks: Ranks
    ) -> None:
        self.root = root
        self._identity = identity
        self._weights = trainable_weights(model)
        self._optimizer = optimizer
        self._ranks = ranks
        self._copies: dict[str, Tensor] = {}
        self._device: torch.device = model.get_input_embeddings().weight.device

    def take(self, progress: Progress, *, copied: bool) -> TrainingState | None:
        """Return the present state, in main memory, on rank 0; None on the others.

        It is a copy in memory that the next call with `copied` fills again; without it the tensors are those of the
        run wherever they can be, and the next step changes them.
        """
        rng = {
            _rank_key(rank, name): state
            for rank, states in enumerate(self._ranks.gather(rng_state(self._device)))
            for name, state in states.items()
        }
        weights = self._gathered({name: weight.detach() for name, weight in self._weights.items()}, copied)
        optimizer = self._gathered(
            {
                f"{name}/{moment}": value
                for name, weight in self._weights.items()
                for moment, value in self._optimizer.state[weight].items()
            },
            copied,
        )
        return TrainingState(progress, self._identity, weights, optimizer, rng) if self._ranks.rank == 0 else None

    def restore(self, checkpoint: Checkpoint) -> Progress:
        """Go on from `checkpoint`, as `SavedRun.take` returns it, and return its progress.

        Raises CheckpointMismatch when it belongs to another run or can't be restored exactly.
        """
        checkpoint.require_match(self._identity, _defaults())
        state = checkpoint.state
        _copy_weights(state.weights, self._weights, self._ranks)
        self._restore_optimizer(state.optimizer, started=state.progress.cursor.step > 0)
        restore_rng(self._device, _own_states(self._ranks, state.rng))
        return state.progress

    def discard_after(self, progress: Progress | None) -> None:
        """Remove the checkpoints after the restored `progress`, or all, which are broken."""
        if self._ranks.rank == 0:
            discard_newer(self.root, -1 if progress is None else progress.cursor.step)

    def load_best_weights(self, step: int) -> None:
        """Give the model the weights that the checkpoint of `step`, the best one, has; the run can't go on after that.

        Raises BestCheckpointLost when the checkpoint is damaged or gone, CheckpointMismatch when it is another run's.
        """
        # A checkpoint's weights have the names and shapes of the model's: those say what rank 0 sends.
        saved: Mapping[str, Tensor] = {
            name: torch.empty(weight.shape, dtype=weight.dtype, device="meta") for name, weight in self._weights.items()
        }
        if self._ranks.rank == 0:
            checkpoint = best_checkpoint(self.root, step)
            checkpoint.require_match(self._identity, _defaults())
            saved = checkpoint.state.weights
        _copy_weights(saved, self._weights, self._ranks)

    def _gathered(self, tensors: Mapping[str, Tensor], copied: bool) -> dict[str, Tensor]:
        """Return the full tensors in main memory on rank 0, sharded ones gathered; an empty mapping on other ranks."""
        gathered = {}
        for name, tensor in tensors.items():
            value = full_tensor(tensor)
            if self._ranks.rank == 0:
                gathered[name] = self._copy(name, value) if copied else value.cpu()
        return gathered

    def _copy(self, name: str, value: Tensor) -> Tensor:
        # The memory is kept: to get it from the system takes longer than the copy.
        if name not in self._copies:
            self._copies[name] = torch.empty_like(value, device="cpu", pin_memory=value.is_cuda)
        return self._copies[name].copy_(value)

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
            value = self._ranks.broadcast(saved[key]).clone().to(weight.device)
            self._optimizer.state[weight][part] = sharded_like(value, expected[key])


def _copy_weights(saved: Mapping[str, Tensor], weights: Mapping[str, Tensor], ranks: Ranks) -> None:
    _require_same(saved, weights, "weights")
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(sharded_like(ranks.broadcast(saved[name]), weight))


def _rank_key(rank: int, name: str) -> str:
    return name if rank == 0 else f"{name} of rank {rank}"


def _own_states(ranks: Ranks, states: Mapping[str, Tensor]) -> dict[str, Tensor]:
    # Copies: torch takes a generator's state from where a tensor's memory begins, and here that is the whole file's.
    return {name: states[key].clone() for name in ("cpu", "cuda") if (key := _rank_key(ranks.rank, name)) in states}


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
