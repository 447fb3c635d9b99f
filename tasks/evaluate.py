"""The `evaluate` tasks: a model's metrics over held-out rows, and a fresh fine-tune's sample generations."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

from prefect import task
from prefect.artifacts import create_link_artifact
from prefect.cache_policies import NO_CACHE
from prefect.logging import get_run_logger

from configs.recipe import EvaluationParameters
from configs.settings import Settings, get_settings
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository, evaluated_length, evaluated_rows
from registry.submissions import EVALUATION_TAG, evaluation_of_parameters
from registry.tables import Evaluation, Model
from registry.tracking import TrackedRun, until_available, version_tags
from tasks.data.examples import DatasetError
from tasks.job.attempt import Attempt
from tasks.job.before_and_after import describe_change
from tasks.job.flow_run import (
    DATABASE_PATIENCE_SECONDS,
    RunWatch,
    claim,
    current_flow_run,
    full_disks_named,
    recorded_attempt,
    require_run,
)
from tasks.job.lease import Lease
from tasks.job.log import RunLogger
from tasks.metrics.measuring import ChosenRows, Measured, generate_samples, measure_rows, places_that_fit
from tasks.metrics.sample_file import sample_file, write_samples
from tasks.models.sources import ModelSource, NamedDataset
from tasks.prepare import Prepared
from tasks.train import Trained

EXPERIMENT = "evaluation"
SAMPLE_ROWS = 8
SAMPLE_NEW_TOKENS = 48


class EvaluationContext:
    """What the tasks of one evaluation share."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        evaluation: Evaluation,
        model: Model,
        logger: RunLogger,
        lease: Lease[Evaluation],
    ) -> None:
        self.settings = settings
        self.database = database
        self.evaluation_id = evaluation.id
        self.sample_file = sample_file(settings.evaluations_dir, evaluation.uid)
        self.parameters = EvaluationParameters(
            model_id=model.id, eval_name=evaluation.eval_name, **evaluation.parameters
        )
        self.model = model
        self.logger = logger
        self.run: TrackedRun
        self.lease = lease
        self.watch = RunWatch(lease)
        self.tracked: Mapping[str, float] = {}
        """What MLflow is to have of the numbers; nothing before there are any."""
        self._shown_percent: int | None = None

    def record_progress(self, done: int, samples: int) -> None:
        """Show how many of the samples are done: once for each percent, as batches can be quicker than the database.

        Raises `RunDeleted` or `LeaseLost` if nobody waits for the rest.
        """
        self.watch.check()
        percent = 100 * done // samples
        if percent == self._shown_percent:
            return
        with self.lease.writing() as (session, evaluation):
            EvaluationRepository(session).record_progress(evaluation.id, done, samples)
        self._shown_percent = percent

    def deliver(self, action: Callable[[], None], what: str) -> None:
        """Have `action` tell MLflow something: waits for its server, and makes another run if this one was deleted."""
        self.run.deliver(action, self.logger.info, what)


@contextmanager
def begin_evaluation(parameters: EvaluationParameters) -> Iterator[EvaluationContext]:
    """Claim the flow run's evaluation for this process and open its MLflow run.

    Raises `UnknownModel` for a run started from Prefect's form with a model that does not exist.
    """
    settings = get_settings()
    with full_disks_named(settings.data_dir), _begun(settings, parameters) as context:
        yield context


@contextmanager
def _begun(settings: Settings, parameters: EvaluationParameters) -> Iterator[EvaluationContext]:
    database = Database(settings.platform_database_url, DATABASE_PATIENCE_SECONDS)
    try:
        evaluation, model = claim(
            database,
            EvaluationRepository,
            EVALUATION_TAG,
            parameters.model_id,
            lambda flow_run_id: evaluation_of_parameters(parameters, flow_run_id),
        )
        with recorded_attempt(database, EvaluationRepository, evaluation.id) as lease:
            context = EvaluationContext(settings, database, evaluation, model, get_run_logger(), lease)
            try:
                _open_stores(context, evaluation.uid)
                yield context
            finally:
                context.watch.close()
    finally:
        database.close()


def _open_stores(context: EvaluationContext, uid: str) -> None:
    context.run = until_available(lambda: _open_run(context, uid), context.logger.info, "open the evaluation's run")
    _link(context)

    def replaced(why: str, empty: bool) -> None:
        context.logger.warning(why)
        if empty:
            context.run.forget_pending()
            context.run.add_metrics(context.tracked, step=0)
        _link(context)

    context.run.on_replaced = replaced
    create_link_artifact(
        context.run.url,
        link_text=f"MLflow run of evaluation {context.evaluation_id}",
        key=f"mlflow-eval-{context.evaluation_id}",
    )


def _link(context: EvaluationContext) -> None:
    with context.lease.writing() as (session, evaluation):
        EvaluationRepository(session).link_mlflow_run(evaluation, context.run.run_id)


def _open_run(context: EvaluationContext, uid: str) -> TrackedRun:
    run = TrackedRun(context.settings.mlflow_url, EXPERIMENT, context.parameters.eval_name, {"evaluation_uid": uid})
    run.set_tags(
        {
            "evaluation_id": str(context.evaluation_id),
            "model_id": str(context.model.id),
            "prefect.flow_run_id": str(current_flow_run().id),
            **version_tags(context.model),
        }
    )
    run.log_params({**context.parameters.model_dump(), "base_model": context.model.base_model})
    return run


@task(cache_policy=NO_CACHE, persist_result=False)
def measure(context: EvaluationContext) -> Measured:
    """Compute the metrics that were asked for, and their intervals, over the first held-out rows in hash order."""
    # An attempt that died may have come further, but left nothing to go on from.
    context.record_progress(0, context.parameters.max_samples)
    named = context.parameters
    source = ModelSource(context.settings, context.model, named.chat_format)
    dataset_id, held_out_dataset_id = evaluated_rows(named.dataset_id, named.held_out_dataset_id, context.model)
    length = min(evaluated_length(named.max_seq_length, context.model), source.context_length)
    dataset = source.prepare(context.database, dataset_id, length, held_out_dataset_id)
    whole = source.prepare(context.database, dataset_id, source.context_length, held_out_dataset_id)
    chosen = ChosenRows.first(whole.prepared, dataset.prepared, named.max_samples, length)
    context.logger.info(
        "Evaluating %s on %d held-out rows of %s, at %d tokens", context.model.name, chosen.rows, dataset.name, length
    )
    _log_dataset(context, dataset)
    return measure_rows(
        source.load(),
        source,
        dataset,
        chosen,
        named,
        on_progress=lambda done: context.record_progress(done, chosen.rows),
    )


def _log_dataset(context: EvaluationContext, dataset: NamedDataset) -> None:
    profile = json.dumps(asdict(dataset.prepared.report))
    context.deliver(
        lambda: context.run.log_dataset(
            dataset.name, dataset.prepared.fingerprint, dataset.source, context="evaluation", profile=profile
        ),
        "take the data set's record",
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def publish(context: EvaluationContext, measured: Measured) -> None:
    """Store the samples in their file, the numbers in MLflow with the samples, and then in the evaluation's record."""

    def log() -> None:
        context.run.flush()
        context.run.log_table(measured.table(), "samples.json")

    context.watch.check_now()
    write_samples(measured.evaluated_samples(), context.sample_file)
    for note in measured.conditions.notes():
        context.logger.warning(note)
    context.tracked = measured.tracked()
    context.run.add_metrics(context.tracked, step=0)
    context.deliver(log, "take the metrics")
    with context.lease.writing() as (session, evaluation):
        require_run(evaluation)
        EvaluationRepository(session).record_metrics(
            evaluation, measured.metrics, measured.intervals, measured.conditions.as_json()
        )
    context.deliver(
        lambda: describe_change(context.database, context.evaluation_id, context.run), "take the description"
    )


@task(cache_policy=NO_CACHE, persist_result=False)
def sample_model(attempt: Attempt, prepared: Prepared, trained: Trained) -> None:
    """Log what the fresh fine-tune answers to a few held-out prompts."""
    attempt.watch.check()
    source, recipe = prepared.source, attempt.recipe
    try:
        # As an evaluation reads them: training may have read windows of them.
        dataset = source.prepare(attempt.database, recipe.dataset_id, recipe.max_seq_length, recipe.held_out_dataset_id)
    except DatasetError as error:
        attempt.log.line(f"No samples from held-out prompts: {error}")
        return
    first = range(min(SAMPLE_ROWS, len(dataset.prepared.held_out)))
    places = places_that_fit(source, dataset, first, SAMPLE_NEW_TOKENS)
    samples = generate_samples(trained.model, source, dataset, places, SAMPLE_NEW_TOKENS)
    attempt.deliver(lambda: attempt.run.log_table(samples.table(), "samples.json"), "take the sample generations")
    attempt.log.line(f"Generated {len(places)} samples from held-out prompts")
