"""Queries on evaluations."""

from collections.abc import Mapping

from registry.repositories.flow_backed import FlowBackedRepository
from registry.tables import Evaluation

METRICS = ("perplexity", "bleu_score", "rouge_score", "response_diversity", "avg_response_length")


class EvaluationRepository(FlowBackedRepository[Evaluation]):
    """Evaluations and their five metrics."""

    table = Evaluation

    def record_metrics(self, evaluation: Evaluation, metrics: Mapping[str, float]) -> None:
        """Store the five metrics under their documented names; a missing one is a KeyError."""
        for name in METRICS:
            setattr(evaluation, name, metrics[name])
