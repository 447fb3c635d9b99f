"""Queries on evaluations."""

from collections.abc import Mapping, Sequence

from sqlalchemy import delete

from registry.repositories.flow_backed import FlowBackedRepository
from registry.repositories.idempotency import forget
from registry.tables import Evaluation

METRICS = ("perplexity", "bleu_score", "rouge_score", "response_diversity", "avg_response_length")


class EvaluationRepository(FlowBackedRepository[Evaluation]):
    """Evaluations and their five metrics."""

    table = Evaluation

    def withdraw(self, evaluation_id: int) -> None:
        """Delete an evaluation that Prefect has not accepted, with the memory of its request; leave any other."""
        unsubmitted = delete(Evaluation).where(Evaluation.id == evaluation_id, Evaluation.flow_run_id.is_(None))
        if self.session.execute(unsubmitted.returning(Evaluation.id)).first() is not None:
            forget(self.session, "%/evaluate", evaluation_id)

    def record_progress(self, evaluation_id: int, generated: int, samples: int) -> None:
        """Store how much of the samples has been generated, in percent."""
        self.require(evaluation_id).progress = 100 * generated / samples

    def record_metrics(
        self,
        evaluation: Evaluation,
        metrics: Mapping[str, float],
        intervals: Mapping[str, Sequence[float] | None],
    ) -> None:
        """Store the five metrics under their documented names, each with its 95% interval (low, high), or None where
        there is none; a missing name is a KeyError.
        """
        for name in METRICS:
            setattr(evaluation, name, metrics[name])
        evaluation.intervals = {name: _as_json(intervals[name]) for name in METRICS}


def _as_json(interval: Sequence[float] | None) -> list[float] | None:
    return None if interval is None else list(interval)
