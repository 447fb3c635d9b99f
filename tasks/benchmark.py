"""The `benchmark` tasks: a model's numbers on lm-eval tasks over local files, in an MLflow run of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from configs.recipe import BenchmarkParameters
from configs.settings import Settings, get_settings
from registry.database import Database
from registry.repositories.models import ModelRepository
from registry.tables import Model
from registry.tracking import TrackedRun, until_available, version_tags
from tasks.harness.installed import harness_version
from tasks.job.flow_run import DATABASE_PATIENCE_SECONDS, UnknownModel, current_flow_run
from tasks.job.log import RunLogger
from tasks.models.sources import ModelSource

EXPERIMENT = "benchmark"


class BenchmarkContext:
    """What the tasks of one benchmark share."""

    def __init__(
        self, settings: Settings, parameters: BenchmarkParameters, model: Model, folder: Path, logger: RunLogger
    ) -> None:
        self.settings = settings
        self.parameters = parameters
        self.model = model
        self.folder = folder
        """The flow run's own: the worker removes it, however the run ends."""
        self.logger = logger
        self.run: TrackedRun


@contextmanager
def begin_benchmark(parameters: BenchmarkParameters) -> Iterator[BenchmarkContext]:
    """Open the flow run's MLflow run, and show there at the end how it went: no record does so for it.

    Raises `HarnessMissing` if lm-eval is not installed, `UnknownModel` for a model that does not exist.
    """
    version = harness_version()
    settings = get_settings()
    model = _require_model(settings, parameters.model_id)
    context = BenchmarkContext(settings, parameters, model, Path.cwd(), get_run_logger())
    context.run = until_available(lambda: _open_run(context, version), context.logger.info, "open the benchmark's run")
    create_link_artifact(
        context.run.url,
        link_text=f"MLflow run of {parameters.benchmark_name}",
        key=f"mlflow-benchmark-{context.run.run_id}",
    )
    status = "KILLED"
    try:
        yield context
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        until_available(lambda: context.run.show_status(status), context.logger.info, "take the run's end")


def _require_model(settings: Settings, model_id: int) -> Model:
    database = Database(settings.platform_database_url, DATABASE_PATIENCE_SECONDS)
    try:
        with database.reading() as session:
            model = ModelRepository(session).get(model_id)
            if model is None:
                raise UnknownModel(f"There is no model with the id {model_id}.")
            return model
    finally:
        database.close()


def _open_run(context: BenchmarkContext, version: str) -> TrackedRun:
    flow_run_id = str(current_flow_run().id)
    # A run that Prefect retries goes on in the same MLflow run.
    run = TrackedRun(
        context.settings.mlflow_url,
        EXPERIMENT,
        context.parameters.benchmark_name,
        {"prefect.flow_run_id": flow_run_id},
    )
    run.show_status("RUNNING")
    run.set_tags({"model_id": str(context.model.id), "lm_eval_version": version, **version_tags(context.model)})
    run.log_params({**context.parameters.model_dump(), "base_model": context.model.base_model})
    return run


@task(cache_policy=NO_CACHE, persist_result=False)
def choose_tasks(context: BenchmarkContext) -> dict[str, Any]:
    """Return lm-eval's tasks with their data, before the seconds in which a model is loaded."""
    from tasks.harness.task_files import load_tasks

    folder = context.settings.benchmarks_dir
    tasks = load_tasks(folder, context.parameters.tasks, cache_dir=context.folder / "data")
    for name, one in tasks["tasks"].items():
        rows = len(one.eval_docs)
        context.logger.info("Task %s: %d of %d rows", name, min(context.parameters.limit or rows, rows), rows)
    return tasks


@task(cache_policy=NO_CACHE, persist_result=False)
def measure_tasks(context: BenchmarkContext, tasks: dict[str, Any]) -> Any:
    """Return the model's `Scores` on the tasks."""
    from tasks.harness.measuring import measure

    source = ModelSource(context.settings, context.model)
    context.logger.info("Measuring %s on %s", context.model.name, ", ".join(tasks["tasks"]))
    return measure(
        source.load(),
        source.tokenizer,
        tasks,
        batch_size=context.parameters.batch_size,
        limit=context.parameters.limit,
        num_fewshot=context.parameters.num_fewshot,
        seed=context.parameters.seed,
        apply_chat_template=context.parameters.apply_chat_template,
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def publish_scores(context: BenchmarkContext, scores: Any) -> None:
    """Store the numbers in MLflow, and beside them what each sample was asked and answered."""
    files = context.folder / "scores"
    scores.write(files)
    context.run.add_metrics(scores.metrics(), step=0)

    def log() -> None:
        context.run.flush()
        context.run.log_file(files / "results.json")
        context.run.log_folder(files / "samples", "samples")

    until_available(log, context.logger.info, "take the metrics")
