"""Queries on evaluations."""

from collections.abc import Mapping

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

    def record_metrics(self, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        """Store the five metrics under their documented names; a missing one is a KeyError."""
        for name in METRICS:
            setattr(evaluation, name, metrics[name])
