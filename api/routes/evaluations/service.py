"""What the evaluation endpoints do: run an evaluation and wait for it, list what was found."""

import asyncio
from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.disk import require_disk
from api.errors import Conflict, EvaluationFailed, NotFound, ServiceDown
from api.idempotency import Answer, IdempotentRequest, create_once
from api.platform import Platform
from api.routes.datasets.service import require_dataset
from api.routes.evaluations.schemas import EvaluateRequest, EvaluateResponse, Metrics
from api.routes.models.service import model_in, require_loadable
from configs.recipe import EvaluationParameters
from registry.attempts import attempt_is_alive
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.run_states import TERMINAL
from registry.submissions import evaluation_of_parameters
from registry.tables import Evaluation
from tasks.metrics.sample_file import sample_file

POLL_SECONDS = 0.2


def list_evaluations(database: Database, limit: int | None, after: int | None) -> Sequence[Evaluation]:
    """Return evaluations in id order."""
    with database.reading() as session:
        return EvaluationRepository(session).list(limit, after)


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
    platform: Platform, model_id: int, body: EvaluateRequest, once: IdempotentRequest | None, wait: bool
) -> EvaluateResponse:
    """Start an evaluation; with `wait`, answer when its numbers are there.

    Raises `ServiceDown` before anything is accepted, and `EvaluationFailed` if the run ends without numbers.
    """
    for service in ("prefect", "mlflow", "worker"):
        platform.monitor.require(service)
    parameters = EvaluationParameters(model_id=model_id, **body.model_dump())

    def insert(session: Session) -> tuple[int, Answer]:
        require_disk(platform.settings)
        return _insert_evaluation(session, parameters)

    created = await asyncio.to_thread(create_once, platform.database, once, insert)
    try:
        await platform.reconciler.submit_waiting()
    except ServiceDown:
        await asyncio.to_thread(_withdraw, platform.database, created.resource_id)
        raise
    evaluation = await asyncio.to_thread(read_evaluation, platform.database, created.resource_id)
    while wait and evaluation.status not in TERMINAL:
        await asyncio.sleep(POLL_SECONDS)
        evaluation = await asyncio.to_thread(read_evaluation, platform.database, created.resource_id)
    if wait and evaluation.status != "COMPLETED":
        reason = evaluation.error or "no reason was recorded"
        raise EvaluationFailed(f"Evaluation {evaluation.id} ended {evaluation.status} without numbers: {reason}")
    return _answer(evaluation)


def _insert_evaluation(session: Session, parameters: EvaluationParameters) -> tuple[int, Answer]:
    require_loadable(model_in(session, parameters.model_id))
    require_dataset(session, parameters.dataset_id)
    require_dataset(session, parameters.held_out_dataset_id)
    evaluation = EvaluationRepository(session).add(evaluation_of_parameters(parameters))
    return evaluation.id, {}


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
        message="Evaluation completed successfully" if done else "Evaluation started; its metrics come when it is done",
        status=evaluation.status,
    )
