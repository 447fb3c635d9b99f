"""What the evaluation endpoints do: run an evaluation and wait for it, list what was found."""

import asyncio
import time

from fastapi import Request
from sqlalchemy.orm import Session

from api.disk import require_disk
from api.errors import Conflict, EvaluationFailed, NotFound, ServiceDown
from api.generation.connections import unless_gone
from api.generation.model_input import require_loadable
from api.idempotency import Answer, IdempotentRequest, create_once
from api.listing import Paging, Part
from api.platform import Platform
from api.routes.datasets.service import require_dataset
from api.routes.evaluations.schemas import Conditions, EvaluateRequest, EvaluateResponse, Metrics
from api.routes.models.service import model_in
from configs.recipe import EvaluationParameters
from registry.attempts import attempt_is_alive
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.evaluations import EvaluationRepository, evaluated_rows
from registry.repositories.paging import Filters
from registry.run_states import TERMINAL
from registry.submissions import evaluation_of_parameters
from registry.tables import Evaluation, Model
from tasks.metrics.sample_file import sample_file

POLL_SECONDS = 0.2
MOST_POLL_SECONDS = 2.0
SLOWER = 1.2
"""Each look at an evaluation that is waited for comes so much later than the one before."""


def list_evaluations(database: Database, paging: Paging, filters: Filters) -> Part[Evaluation]:
    """Return the wanted part of the evaluations."""
    with database.reading() as session:
        evaluations = EvaluationRepository(session)
        return paging.read(lambda limit, after, newest: evaluations.list(limit, after, filters, newest_first=newest))


def read_evaluation(database: Database, evaluation_id: int) -> Evaluation:
    """Return the evaluation, or raise `NotFound`."""
    with database.reading() as session:
        return _evaluation_in(session, evaluation_id)


def _evaluation_in(session: Session, evaluation_id: int) -> Evaluation:
    evaluation = EvaluationRepository(session).get(evaluation_id)
    if evaluation is None:
        message = f"There is no evaluation with the id {evaluation_id}; GET /api/evaluations lists those there are."
        raise NotFound(message)
    return evaluation


def delete_evaluation(platform: Platform, evaluation_id: int) -> None:
    """Delete an ended evaluation with its samples; jobs that name it name none then. Raises `Conflict`, `NotFound`.

    Its MLflow run is deleted there by the next pass of retention, and can be restored until `keep_deleted_days` later.
    """
    with platform.database.transaction() as session:
        evaluation = _evaluation_in(session, evaluation_id)
        if evaluation.status not in TERMINAL or attempt_is_alive(evaluation):
            raise Conflict(f"Evaluation {evaluation_id} is {evaluation.status}; delete it when it has ended.")
        EvaluationRepository(session).remove(evaluation)
    # After the commit: a file without an evaluation is litter, an evaluation without its file would be a lie.
    sample_file(platform.settings.evaluations_dir, evaluation.uid).unlink(missing_ok=True)


async def evaluate(
    platform: Platform,
    request: Request,
    model_id: int,
    body: EvaluateRequest,
    once: IdempotentRequest | None,
    wait: bool,
) -> EvaluateResponse:
    """Start an evaluation; with `wait`, answer when its numbers are there, or `evaluation_wait_seconds` have passed.

    Raises `ClientGone` if nobody waits any more (it goes on), `ServiceDown` before anything is accepted, and
    `EvaluationFailed` if the run ends without numbers.
    """
    await asyncio.to_thread(platform.monitor.require, "controller", "prefect", "mlflow", "worker")
    parameters = EvaluationParameters(model_id=model_id, **body.model_dump())
    await platform.dataset_checks.require_format(model_id, body.chat_format)

    def insert(session: Session) -> tuple[int, Answer]:
        require_disk(platform.settings)
        return _insert_evaluation(session, parameters)

    created = await asyncio.to_thread(create_once, platform.database, once, insert)
    try:
        await platform.submission.submit(EvaluationRepository, created.resource_id)
    except ServiceDown:
        await asyncio.to_thread(_withdraw, platform.database, created.resource_id)
        raise
    evaluation = await asyncio.to_thread(read_evaluation, platform.database, created.resource_id)
    if wait:
        evaluation = await unless_gone(request, _ended(platform, evaluation))
    if wait and evaluation.status in TERMINAL and evaluation.status != "COMPLETED":
        reason = evaluation.error or "no reason was recorded"
        raise EvaluationFailed(f"Evaluation {evaluation.id} ended {evaluation.status} without numbers: {reason}")
    return _answer(evaluation)


async def _ended(platform: Platform, evaluation: Evaluation) -> Evaluation:
    """Return the evaluation once it has ended, or as it is when it has been waited for long enough."""
    deadline, pause = time.monotonic() + platform.settings.evaluation_wait_seconds, POLL_SECONDS
    while evaluation.status not in TERMINAL and (left := deadline - time.monotonic()) > 0:
        await asyncio.sleep(min(pause, left))
        pause = min(pause * SLOWER, MOST_POLL_SECONDS)
        evaluation = await asyncio.to_thread(read_evaluation, platform.database, evaluation.id)
    return evaluation


def _insert_evaluation(session: Session, parameters: EvaluationParameters) -> tuple[int, Answer]:
    model = model_in(session, parameters.model_id, "use")
    require_loadable(model)
    require_dataset(session, parameters.dataset_id, "use")
    require_dataset(session, parameters.held_out_dataset_id, "use")
    _require_rows(session, parameters, model)
    evaluation = EvaluationRepository(session).add(evaluation_of_parameters(parameters))
    return evaluation.id, {}


def _require_rows(session: Session, parameters: EvaluationParameters, model: Model) -> None:
    """Raise `Conflict` if the rows that an evaluation is about when it names none have been deleted."""
    datasets = DatasetRepository(session)
    dataset_id, held_out_id = evaluated_rows(parameters.dataset_id, parameters.held_out_dataset_id, model)
    gone = [one for one in (dataset_id, held_out_id) if one is not None and datasets.get(one) is None]
    if gone:
        raise Conflict(
            f"Model {model.id} ({model.name}) was trained on data set {gone[0]}, which has been deleted: name "
            "another one as dataset_id (GET /api/datasets lists those there are)."
        )


def _withdraw(database: Database, evaluation_id: int) -> None:
    """Take back an evaluation that Prefect did not accept: its client is told 503, and will ask again."""
    with database.transaction() as session:
        EvaluationRepository(session).withdraw(evaluation_id)


def _answer(evaluation: Evaluation) -> EvaluateResponse:
    done = evaluation.status == "COMPLETED"
    return EvaluateResponse(
        id=evaluation.id,
        model_id=evaluation.model_id,
        eval_name=evaluation.eval_name,
        metrics=Metrics.model_validate(evaluation),
        conditions=Conditions.model_validate(evaluation),
        message="Evaluation completed successfully" if done else "Evaluation started; its metrics come when it is done",
        status=evaluation.status,
    )
