"""The `train` task: the loop of `tasks.training` on the prepared data, within free memory, watched for pauses."""

import os
import signal
from typing import NoReturn

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.atomic_files import StagingFolder
from tasks.data.chosen_format import save_template
from tasks.job.attempt import Attempt
from tasks.job.flow_run import RunWatch
from tasks.prepare import Prepared
from tasks.training.adapter import TrainedModel, has_vision, leaves_out_experts, save_adapter
from tasks.training.devices import TrainingRun, load, train_on_devices
from tasks.training.errors import RankLost
from tasks.training.fitting import MemoryPlanner
from tasks.training.memory import available_memory
from tasks.training.methods import METHODS
from tasks.training.observer import TrainOutcome
from tasks.training.planning import StepPlan
from tasks.training.saved_run import SavedRun
from tasks.training.sharding import is_sharded
from tasks.training.snapshot import load_trained


class Trained:
    """The model after the loop, at its end or before."""

    def __init__(self, model: TrainedModel, outcome: TrainOutcome, watch: RunWatch) -> None:
        self.model = model
        self.outcome = outcome
        self._watch = watch

    @property
    def paused(self) -> bool:
        """Whether the loop left because of a pause, or of its run's deletion, with a complete checkpoint on disk."""
        return self.outcome.paused

    def leave(self) -> None:
        """End the flow as suspended, or as one that is not wanted any more."""
        self._watch.leave()


@task(cache_policy=NO_CACHE, persist_result=False)
def train(attempt: Attempt, prepared: Prepared) -> Trained:
    """Train to the end or until it has to leave, from the newest checkpoint if there is one."""
    watch = attempt.watch
    recipe, data = attempt.recipe, prepared.dataset.prepared
    # Measured before the model is loaded: the plan's estimate includes it.
    available = attempt.settings.training_memory_bytes or available_memory(prepared.source.device)
    model = load(prepared.source, recipe)
    if not METHODS[recipe.method].full:
        _save_untrained(attempt, prepared, model)
    if leaves_out_experts(model):
        attempt.log.line(
            "The model's experts and routers are not trained: adapters are on its other linear layers only"
        )
    if has_vision(model):
        attempt.log.line("The model's vision tower is neither trained nor asked: it stays as it is")
    lengths = [*data.train.lengths, *data.held_out.lengths[: recipe.eval_rows]]
    dtype = prepared.source.dtype
    saved_run = SavedRun(attempt.files.checkpoints, attempt.log.line)
    planner = MemoryPlanner(
        model,
        recipe,
        lengths,
        dtype,
        saved_run,
        available,
        attempt.reporter.on_plan,
        prepared.source.device,
    )

    def run(plan: StepPlan, background_saves: bool) -> TrainOutcome:
        nonlocal model
        if is_sharded(model):  # by a run that ran out of memory: the other ranks' shards are gone
            model = load(prepared.source, recipe)
        one = TrainingRun(
            recipe=recipe,
            train_rows=data.train,
            held_out_rows=data.held_out[: recipe.eval_rows],
            pad_token_id=prepared.source.pad_token_id,
            saved_run=saved_run,
            data_fingerprint=data.fingerprint,
            compute_dtype=dtype,
            checkpoint_interval=attempt.settings.checkpoint_interval_seconds,
            background_saves=background_saves,
            plan=plan,
        )
        return train_on_devices(one, prepared.source, model, attempt.reporter, watch.must_leave)

    try:
        outcome = planner.train(run, killed_for_memory=attempt.killed_for_memory)
    except RankLost as lost:
        _die_like(lost, attempt)
    if METHODS[recipe.method].full and is_sharded(model) and not outcome.paused:
        model = load(prepared.source, recipe)  # this process holds only its shard of the trained weights
        load_trained(model, attempt.files.checkpoints, outcome.weights_step)
    _report(attempt, outcome)
    return Trained(model, outcome, watch)


def _die_like(lost: RankLost, attempt: Attempt) -> NoReturn:
    """Kill this process as the lost rank was killed: the job then resumes from its newest checkpoint."""
    attempt.log.announce(f"Stopped: {lost}")
    os.kill(os.getpid(), signal.SIGKILL)
    raise lost


def _save_untrained(attempt: Attempt, prepared: Prepared, model: TrainedModel) -> None:
    """Save the adapter as it is before the first step, once: checkpoints are exported in its format."""
    folder = attempt.files.untrained_adapter
    if folder.is_dir():
        return
    staging = StagingFolder(folder.parent, folder.name)
    try:
        save_adapter(model, staging.path, prepared.source.base_reference)
        save_template(prepared.source.tokenizer, staging.path)
        staging.publish(folder)
    finally:
        staging.close()


def _report(attempt: Attempt, outcome: TrainOutcome) -> None:
    if outcome.paused:
        attempt.log.line(f"Paused after step {outcome.step} of {outcome.total_steps}")
        return
    if outcome.stopped_early:
        attempt.log.line(
            f"Stopped early after step {outcome.step}: no lower held-out loss since step {outcome.best_step}"
        )
    attempt.reporter.on_completed(outcome)
    if attempt.recipe.register_best and outcome.eval_loss is not None:
        attempt.log.line(
            f"Registering the weights of step {outcome.weights_step} (held-out loss {outcome.eval_loss:.4f})"
        )
