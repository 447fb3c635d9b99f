"""What the run in a folder of checkpoints has come to: its newest complete checkpoint, read once for all who ask."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs.recipe import TrainingRecipe
from tasks.training.checkpoint import Checkpoint, latest_checkpoint
from tasks.training.estimate import BackendName
from tasks.training.planning import StepPlan
from tasks.training.ranks import Ranks

_LOG = logging.getLogger(__name__)
FIRST_BACKEND: BackendName = "padded"
"""That of a run whose checkpoint, written by an earlier version, does not name one."""


class SavedRun:
    """The newest complete checkpoint in `root`, which the plan, the step backend and the restored state come from.

    It is read when something is first asked of it, and kept until it is taken: full-parameter states are large.
    Damaged checkpoints are passed over with a line to `log`. A pickled one, for another process, has read nothing.
    """

    def __init__(self, root: Path, log: Callable[[str], None] = _LOG.warning) -> None:
        self.root = root
        self._log = log
        self._is_read = False
        self._newest: Checkpoint | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return SavedRun, (self.root,)

    @property
    def backend(self) -> BackendName | None:
        """The step backend that the run has used so far; None if it has not begun."""
        newest = self._read()
        return None if newest is None else backend_of(newest)

    def plan(self, recipe: TrainingRecipe) -> StepPlan | None:
        """Return how the run has cut its steps so far; None if it has not begun."""
        newest = self._read()
        # A checkpoint of an earlier version has no plan: that version always took the batch size.
        return None if newest is None else newest.state.progress.plan or StepPlan(recipe.rows_per_device)

    def take(self, ranks: Ranks) -> Checkpoint | None:
        """Return the checkpoint and let go of it: what is asked of this run next is read anew.

        Rank 0 alone reads. On the other ranks the weights and the optimizer's tensors have shapes and no content,
        which `Ranks.broadcast` brings, one after the other.
        """
        if ranks.rank > 0:
            return ranks.same(None)
        newest, self._newest, self._is_read = self._read(), None, False
        ranks.same(newest and _without_content(newest))
        return newest

    def _read(self) -> Checkpoint | None:
        if not self._is_read:
            self._newest, self._is_read = latest_checkpoint(self.root, self._log), True
        return self._newest


def backend_of(checkpoint: Checkpoint) -> BackendName:
    """Return the step backend of the run that has saved this checkpoint."""
    backend: BackendName = checkpoint.state.identity.get("backend", FIRST_BACKEND)
    return backend


def _without_content(checkpoint: Checkpoint) -> Checkpoint:
    state = checkpoint.state
    weights, optimizer = (
        {name: tensor.to("meta") for name, tensor in part.items()} for part in (state.weights, state.optimizer)
    )
    return replace(checkpoint, state=replace(state, weights=weights, optimizer=optimizer))
