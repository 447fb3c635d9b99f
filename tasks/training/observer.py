"""The interface by which the training loop reports its progress, and its records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step: what went in and what came out."""

    step: int
    """Updates done, this one included."""
    total_steps: int
    epoch: int
    """Pass over the rows, from 1."""
    loss: float
    """Mean negative log-likelihood in nats per labelled token, before the update, dropout on."""
    learning_rate: float
    grad_norm: float
    """Euclidean norm of the full gradient before clipping."""
    tokens: int
    """Tokens read, padding not counted."""
    tokens_seen: int
    """Those of all steps up to this one."""
    seconds: float
    tokens_per_second: float
    sample_ids: tuple[int, ...]
    """Indices of the rows in the training set, in the sampler's order."""


@dataclass(frozen=True)
class PlanRecord:
    """How the optimizer steps are cut from now on, so that they fit in memory."""

    rows_at_once: str
    """The plan in words."""
    micro_batch: int
    """Rows in memory at once."""
    gradient_accumulation: int
    """Micro-batches of a step."""
    recompute: bool
    """Whether activations are computed again in the backward pass instead of being kept."""
    sharded: bool
    """Whether the devices divide the weights among them."""
    background_saves: bool
    """Whether there is room for a copy of the state, which checkpoints are written from while steps run."""
    estimated_bytes: int | None
    """The most that the run takes at once; None for a model of unknown shape."""
    available_bytes: int
    """What there was before the model was loaded."""
    reason: str | None
    """What made a smaller plan than the one before it necessary; None for the first."""


@dataclass(frozen=True)
class TrainOutcome:
    """How `train` ended: at the last step, early, or paused; with a complete checkpoint of `step` on disk."""

    paused: bool
    stopped_early: bool
    """Whether the held-out loss had no new lowest for so long that the steps up to `total_steps` were left out."""
    step: int
    total_steps: int
    best_step: int | None
    """The step after which the held-out loss was lowest; None before the first one."""
    weights_step: int
    """The step whose weights the model has now: `step`, or `best_step` if that is to be registered."""
    eval_loss: float | None
    """Held-out loss of the weights that the model has now; None when paused or without held-out rows."""


class TrainingObserver(Protocol):
    """Receives the loop's events in order, between steps. Methods must be quick and must not use torch's RNG.

    An exception from one of them ends the run; it can be resumed from the last checkpoint.
    """

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None:
        """Called before the first step, with the steps done (above 0 after a resume) and their total."""
        ...

    def on_step(self, record: StepRecord) -> None:
        """Called after each step. After a crash the steps since the last checkpoint come again, with equal numbers."""
        ...

    def on_evaluation(self, step: int, eval_loss: float) -> None:
        """Called with a held-out loss in nats per labelled token after `step` updates."""
        ...

    def before_checkpoint(self, step: int) -> None:
        """Called when a checkpoint of `step` is on disk and about to appear; raises to keep it from that.

        Unlike the others it may be called during a step, by another thread.
        """
        ...

    def on_checkpoint(self, step: int, path: Path) -> None:
        """Called when the folder `path` holds a complete checkpoint of `step`, which may be one of some steps ago."""
        ...
