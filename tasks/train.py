"""The `train` task: the loop of `tasks.lora` on the prepared data, watched for pauses."""

from prefect import task
from prefect.cache_policies import NO_CACHE

from tasks.attempt import Attempt, PauseWatch
from tasks.lora.adapter import TrainedModel
from tasks.lora.loop import train as run_loop
from tasks.lora.methods import METHODS
from tasks.lora.observer import TrainOutcome
from tasks.prepare import Prepared


class Trained:
    """The model as the loop left it, at its end or at a pause."""

    def __init__(self, model: TrainedModel, outcome: TrainOutcome, watch: PauseWatch) -> None:
        self.model = model
        self.outcome = outcome
        self._watch = watch

    @property
    def paused(self) -> bool:
        """Whether the loop left because of a pause, with a complete checkpoint on disk."""
        return self.outcome.paused

    def leave(self) -> None:
        """End the flow as suspended."""
        self._watch.leave()


@task(cache_policy=NO_CACHE, persist_result=False)
def train(attempt: Attempt, prepared: Prepared) -> Trained:
    """Train to the end or to a pause, from the newest checkpoint if there is one."""
    watch = PauseWatch()
    model = METHODS[attempt.recipe.method].load(prepared.source, attempt.recipe)
    data = prepared.dataset.prepared
    outcome = run_loop(
        model,
        data.train,
        data.held_out[: attempt.recipe.eval_rows],
        attempt.recipe,
        pad_token_id=prepared.source.pad_token_id,
        checkpoints=attempt.checkpoints,
        data_fingerprint=data.fingerprint,
        observer=attempt.reporter,
        should_pause=watch.requested,
        checkpoint_interval=attempt.settings.checkpoint_interval_seconds,
        compute_dtype=prepared.source.dtype,
    )
    _report(attempt, outcome)
    return Trained(model, outcome, watch)


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
            f"Registering the weights of step {outcome.adapter_step} (held-out loss {outcome.eval_loss:.4f})"
        )
