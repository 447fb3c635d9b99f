"""The `evaluate` flow: a model's metrics over held-out rows."""

from prefect import flow

from configs.recipe import EvaluationParameters


@flow(name="evaluate", description="Compute a model's metrics over held-out rows", persist_result=False)
def evaluate(evaluation: EvaluationParameters) -> None:
    """Compute the metrics that are asked for, and store them with the samples."""
    # Here, not above: to register the flow takes its parameters, and not the seconds in which torch is imported.
    from tasks.evaluate import begin_evaluation, measure, publish

    with begin_evaluation(evaluation) as context:
        publish(context, measure(context))
