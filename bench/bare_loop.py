"""The training loop by itself: no held-out rows, no pause; checkpoints, as a rule one at the end, are thrown away."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from configs.recipe import TrainingRecipe
from tasks.training import loop
from tasks.training.adapter import TrainedModel
from tasks.training.batch import TokenRow
from tasks.training.estimate import BackendName
from tasks.training.observer import StepRecord, TrainingObserver
from tasks.training.planning import StepPlan
from tasks.training.saved_run import SavedRun
from tasks.training.step_backend import PaddedBackend

NEVER = 1e9


class StepListener:
    """An observer of the loop that ignores all but steps; a subclass defines `on_step`."""

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None: ...

    def on_step(self, record: StepRecord) -> None: ...

    def on_evaluation(self, step: int, eval_loss: float) -> None: ...

    def before_checkpoint(self, step: int) -> None: ...

    def on_checkpoint(self, step: int, path: Path) -> None: ...


def train(  # noqa: PLR0913 - those of the loop
    model: TrainedModel,
    rows: Sequence[TokenRow],
    recipe: TrainingRecipe,
    observer: TrainingObserver,
    *,
    pad_token_id: int,
    backend: BackendName | None = None,
    compute_dtype: torch.dtype | None = None,
    plan: StepPlan | None = None,
    background_saves: bool = False,
) -> None:
    """Train `model` in this process on `rows`; with the loop's choice of backend, or from now on with `backend`.

    With `background_saves` every step is saved, from a copy.
    """
    if backend == "padded":
        loop.choose_backend = lambda model, pad_token_id, _begun, dtype, recompute: PaddedBackend(
            model, pad_token_id, dtype, recompute=recompute
        )
    with tempfile.TemporaryDirectory() as folder:
        loop.train(
            model,
            rows,
            [],
            recipe,
            pad_token_id=pad_token_id,
            saved_run=SavedRun(Path(folder)),
            data_fingerprint="bench",
            observer=observer,
            should_pause=lambda: False,
            checkpoint_interval=0.0 if background_saves else NEVER,
            background_saves=background_saves,
            compute_dtype=compute_dtype,
            plan=plan,
        )
