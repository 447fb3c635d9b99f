"""The `finetune` flow: prepare → train → evaluate → register, paused and resumed at any step."""

from prefect import flow

from configs.recipe import FinetuneParameters


@flow(name="finetune", description="Fine-tune a model and register the result", persist_result=False)
def finetune(job: FinetuneParameters) -> None:
    """Train a model by the recipe's method and register a new version; the model trained from is untouched."""
    # Here, not above: to register the flow takes its parameters, and not the seconds in which torch is imported.
    from tasks.evaluate import sample_model
    from tasks.job.attempt import begin_attempt
    from tasks.prepare import prepare
    from tasks.register import register
    from tasks.train import train

    with begin_attempt(job) as attempt:
        prepared = prepare(attempt)
        trained = train(attempt, prepared)
        if trained.paused:
            trained.leave()
        sample_model(attempt, prepared, trained)
        register(attempt, prepared, trained)
