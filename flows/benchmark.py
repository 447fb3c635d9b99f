"""The `benchmark` flow: a model's numbers on lm-eval tasks over local files."""

from prefect import flow

from configs.recipe import BenchmarkParameters


@flow(name="benchmark", description="Measure a model on lm-eval tasks over local files", persist_result=False)
def benchmark(benchmark: BenchmarkParameters) -> None:
    """Read the tasks and their data, measure the model on them, and store the numbers in MLflow."""
    # Here, not above: to register the flow takes its parameters, and neither torch nor lm-eval, which is an extra.
    from tasks.benchmark import begin_benchmark, choose_tasks, measure_tasks, publish_scores

    with begin_benchmark(benchmark) as context:
        publish_scores(context, measure_tasks(context, choose_tasks(context)))
