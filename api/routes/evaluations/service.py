"""What the evaluation endpoints do: run an evaluation and wait for it, list what was found."""

import asyncio

from sqlalchemy.orm import Session

from api.errors import EvaluationFailed, NotFound, ServiceDown
from api.generation.model_input import require_loadable
from api.idempotency import Answer, IdempotentRequest, create_once
from api.listing import Paging, Part
from api.platform import Platform
from api.routes.datasets.service import require_dataset
from api.routes.evaluations.schemas import EvaluateRequest, EvaluateResponse, Metrics
from api.routes.models.service import model_in
from configs.recipe import EvaluationParameters
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.paging import Filters
from registry.run_states import TERMINAL
from registry.submissions import evaluation_of_parameters
from registry.tables import Evaluation

POLL_SECONDS = 0.2


def list_evaluations(database: Database, paging: Paging, filters: Filters) -> Part[Evaluation]:
    """Return the wanted part of the evaluations."""
    with database.reading() as session:
        evaluations = EvaluationRepository(session)
        return paging.read(lambda limit, after, newest: evaluations.list(limit, after, filters, newest_first=newest))


def read_evaluation(database: Database, evaluation_id: int) -> Evaluation:
    """Return the evaluation, or raise `NotFound`."""
    with database.reading() as session:
        evaluation = EvaluationRepository(session).get(evaluation_id)
    if evaluation is None:
        message = f"There is no evaluation with the id {evaluation_id}; GET /api/evaluations lists those there are."
        raise NotFound(message)
    return evaluation


async def evaluate(
    platform: Platform, model_id: int, body: EvaluateRequest, once: IdempotentRequest | None, wait: bool
) -> EvaluateResponse:
    """Start an evaluation; with `wait`, answer when its numbers are there.

    Raises `ServiceDown` before anything is accepted, and `EvaluationFailed` if the run ends without numbers.
    """
    await asyncio.to_thread(_require_services, platform)
    parameters = EvaluationParameters(model_id=model_id, **body.model_dump())
    created = await asyncio.to_thread(
        create_once, platform.database, once, lambda session: _insert_evaluation(session, parameters)
    )
    try:
        await platform.submission.submit_waiting()
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


def _require_services(platform: Platform) -> None:
    for service in ("controller", "prefect", "mlflow", "worker"):
        platform.monitor.require(service)


def _insert_evaluation(session: Session, parameters: EvaluationParameters) -> tuple[int, Answer]:
    require_loadable(model_in(session, parameters.model_id, "use"))
    require_dataset(session, parameters.dataset_id, "use")
    require_dataset(session, parameters.held_out_dataset_id, "use")
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
