"""The `evaluate` flow: a model's metrics over held-out rows."""

from prefect import flow

from configs.recipe import EvaluationParameters


@flow(name="evaluate", description="Compute a model's metrics over held-out rows", persist_result=False)
def evaluate(evaluation: EvaluationParameters) -> None:
    """Compute and store the metrics that are asked for, and see whether they make a first champion."""
    # Here, not above: to register the flow takes its parameters, and not the seconds in which torch is imported.
    from tasks.evaluate import begin_evaluation, measure, publish
    from tasks.promote import consider_first_champion

    with begin_evaluation(evaluation) as context:
        publish(context, measure(context))
        consider_first_champion(context)
