"""The `evaluate` flow: the five metrics of a model over held-out rows."""

from prefect import flow

from configs.recipe import EvaluationParameters


@flow(name="evaluate", description="Compute a model's metrics over held-out rows", persist_result=False)
def evaluate(evaluation: EvaluationParameters) -> None:
    """Generate responses, compute perplexity, BLEU, ROUGE-L, diversity and length, and store them."""
    # Here, not above: to register the flow takes its parameters, and not the seconds in which torch is imported.
    from tasks.evaluate import begin_evaluation, measure, publish

    with begin_evaluation(evaluation) as context:
        publish(context, measure(context))
