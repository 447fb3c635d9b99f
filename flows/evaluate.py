"""The `evaluate` flow: the five metrics of a model over held-out rows."""

from prefect import flow

from configs.recipe import EvaluationParameters
from tasks.evaluate import begin_evaluation, measure, publish


@flow(name="evaluate", description="Compute a model's metrics over held-out rows", persist_result=False)
def evaluate(evaluation: EvaluationParameters) -> None:
    """Generate responses, compute perplexity, BLEU, ROUGE-L, diversity and length, and store them."""
    with begin_evaluation(evaluation) as context:
        publish(context, measure(context))
