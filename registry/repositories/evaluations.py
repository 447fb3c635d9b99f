"""Queries on evaluations."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import delete, select, update

from configs.chat_format import ChatFormat
from configs.dataset import BUILT_IN_DATASET_ID
from configs.recipe import METRICS, EvaluationParameters, MetricName, TrainingRecipe
from registry.repositories.flow_backed import FlowBackedRepository
from registry.repositories.idempotency import forget
from registry.stored_values import finite
from registry.tables import Evaluation, Model, TrainingJob


def metrics_of(evaluation: Evaluation) -> list[MetricName]:
    """Return the metrics that the evaluation was asked for, and has once it is completed, in the documented order."""
    # Evaluations older than the choice have nothing of it in their parameters.
    asked_for = evaluation.parameters.get("metrics") or METRICS
    return [name for name in METRICS if name in asked_for]


# What an evaluation is called, and which numbers its intervals are drawn with, changes none of its metrics.
NOT_OF_THE_NUMBERS = {"eval_name", "model_id", "seed"}
# What a base model is evaluated at, and what every evaluation was before version 0018 of the tables.
DEFAULT_LENGTH: int = TrainingRecipe.model_fields["max_seq_length"].default
# A promotion looks through the evaluations of two models: through so many of each at most.
MOST_OF_A_MODEL = 1000


def numbers_hash(parameters: Mapping[str, Any]) -> str:
    """Return the SHA-256 of what an evaluation's metrics depend on, of the parameters that it was asked for with."""
    counting = {name: value for name, value in parameters.items() if name not in NOT_OF_THE_NUMBERS}
    return hashlib.sha256(json.dumps(counting, sort_keys=True).encode()).hexdigest()


def evaluated_rows(dataset_id: int | None, held_out_dataset_id: int | None, model: Model) -> tuple[int, int | None]:
    """Return which rows count: those held out of the first data set, or all of the second where there is one.

    What the evaluation names comes first; if it names neither, what the model's own training held out.
    """
    if dataset_id is None and held_out_dataset_id is None:
        recipe = (model.parameters or {}).get("recipe", {})
        dataset_id, held_out_dataset_id = recipe.get("dataset_id"), recipe.get("held_out_dataset_id")
    return dataset_id or BUILT_IN_DATASET_ID, held_out_dataset_id


def evaluated_length(max_seq_length: int | None, model: Model) -> int:
    """Return how many tokens of a row count: what the evaluation names, or else what the model's training allowed.

    A base model has learned no length here: it gets the default of training.
    """
    if max_seq_length is not None:
        return max_seq_length
    recipe = (model.parameters or {}).get("recipe", {})
    length: int = recipe.get("max_seq_length", DEFAULT_LENGTH)
    return length


def trained_format(model: Model) -> ChatFormat:
    """Return the chat format that a fine-tune's job was given; the fine-tune has it by itself, its base has not."""
    return ChatFormat.among((model.parameters or {}).get("recipe", {}))


def measured_length(evaluation: Evaluation) -> int:
    """Return the `max_seq_length` that a completed evaluation was measured at."""
    length: int = (evaluation.conditions or {}).get("max_seq_length", DEFAULT_LENGTH)
    return length


def measured_new_tokens(evaluation: Evaluation) -> int | None:
    """Return the longest response that a completed evaluation allowed, in tokens; None if it generated nothing."""
    conditions = evaluation.conditions
    longest: int | None = (conditions if conditions is not None else evaluation.parameters)["max_new_tokens"]
    return longest


def text_tokenizer(evaluation: Evaluation) -> str | None:
    """Return how a completed evaluation split texts into words; None if it had none, or is older than version 0018."""
    tokenizer: str | None = (evaluation.conditions or {}).get("tokenizer")
    return tokenizer


class EvaluationRepository(FlowBackedRepository[Evaluation]):
    """Evaluations and their metrics."""

    table = Evaluation

    def add(self, record: Evaluation) -> Evaluation:
        """Insert an evaluation; its id is set on return."""
        record.numbers_hash = numbers_hash(record.parameters)
        return super().add(record)

    def of_model(self, model_id: int) -> Sequence[Evaluation]:
        """Return the model's evaluations, newest first: a thousand of them at most."""
        query = select(Evaluation).where(Evaluation.model_id == model_id)
        return self.session.scalars(query.order_by(Evaluation.id.desc()).limit(MOST_OF_A_MODEL)).all()

    def repeated(self, parameters: EvaluationParameters) -> Evaluation | None:
        """Return the newest evaluation, completed or under way, with the numbers that these parameters would give."""
        query = select(Evaluation).where(
            Evaluation.model_id == parameters.model_id,
            Evaluation.numbers_hash == numbers_hash(parameters.model_dump()),
            Evaluation.status.in_(("PENDING", "RUNNING", "COMPLETED")),
            # One that Prefect has not accepted may be withdrawn.
            Evaluation.flow_run_id.is_not(None),
        )
        return self.session.scalar(query.order_by(Evaluation.id.desc()).limit(1))

    def withdraw(self, evaluation_id: int) -> None:
        """Delete an evaluation that Prefect has not accepted, with the memory of its request; leave any other."""
        unsubmitted = delete(Evaluation).where(Evaluation.id == evaluation_id, Evaluation.flow_run_id.is_(None))
        if self.session.execute(unsubmitted.returning(Evaluation.id)).first() is not None:
            forget(self.session, "%/evaluate", evaluation_id)

    def remove(self, evaluation: Evaluation) -> None:
        """Delete the evaluation, with the memory of its request; jobs that name it name none then."""
        for column in (TrainingJob.output_evaluation_id, TrainingJob.base_evaluation_id):
            self.session.execute(update(TrainingJob).where(column == evaluation.id).values({column: None}))
        forget(self.session, "%/evaluate", evaluation.id)
        self.session.delete(evaluation)

    def record_progress(self, evaluation_id: int, done: int, samples: int) -> None:
        """Store how many of the samples are done, in percent."""
        self.require(evaluation_id).progress = 100 * done / samples

    def record_metrics(
        self,
        evaluation: Evaluation,
        metrics: Mapping[MetricName, float],
        intervals: Mapping[MetricName, Sequence[float] | None],
        conditions: Mapping[str, Any] | None = None,
    ) -> None:
        """Store the metrics that were asked for, each with its 95% interval (low, high), or None where there is none.

        `conditions` are `tasks.metrics.conditions.Conditions` as JSON: what the numbers were measured under.
        One that is missing is a KeyError, one that is no finite number a ValueError: an evaluation without its numbers
        has failed. What was not asked for stays null.
        """
        asked_for = metrics_of(evaluation)
        odd = {name: metrics[name] for name in asked_for if not math.isfinite(metrics[name])}
        if odd:
            raise ValueError(f"an evaluation's metrics must be finite numbers, but these are not: {odd}")
        for name in asked_for:
            setattr(evaluation, name, metrics[name])
        evaluation.intervals = {name: _as_json(intervals[name]) for name in asked_for}
        evaluation.conditions = dict(conditions) if conditions is not None else None


def _as_json(interval: Sequence[float] | None) -> list[float] | None:
    # An interval with an end that is no number says nothing.
    return None if interval is None or None in map(finite, interval) else list(interval)
