"""What the evaluation endpoints do: run an evaluation and wait for it, list what was found."""

import asyncio
import time
from collections.abc import Sequence

from fastapi import Request
from sqlalchemy.orm import Session

from api.errors import EvaluationFailed, NotFound, ServiceDown
from api.generation.connections import unless_gone
from api.generation.model_input import require_loadable
from api.idempotency import Answer, IdempotentRequest, create_once
from api.platform import Platform
from api.routes.datasets.service import require_dataset
from api.routes.evaluations.schemas import EvaluateRequest, EvaluateResponse, Metrics
from api.routes.models.service import model_in
from configs.recipe import EvaluationParameters
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.run_states import TERMINAL
from registry.submissions import evaluation_of_parameters
from registry.tables import Evaluation

POLL_SECONDS = 0.2
MOST_POLL_SECONDS = 2.0
SLOWER = 1.2
"""Each look at an evaluation that is waited for comes so much later than the one before."""


def list_evaluations(database: Database, limit: int | None, after: int | None) -> Sequence[Evaluation]:
    """Return evaluations in id order."""
    with database.reading() as session:
        return EvaluationRepository(session).list(limit, after)


def read_evaluation(database: Database, evaluation_id: int) -> Evaluation:
    """Return the evaluation, or raise `NotFound`."""
    with database.reading() as session:
        evaluation = EvaluationRepository(session).get(evaluation_id)
    if evaluation is None:
        message = f"There is no evaluation with the id {evaluation_id}; GET /api/evaluations lists those there are."
        raise NotFound(message)
    return evaluation


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
    for service in ("prefect", "mlflow", "worker"):
        platform.monitor.require(service)
    parameters = EvaluationParameters(model_id=model_id, **body.model_dump())
    created = await asyncio.to_thread(
        create_once, platform.database, once, lambda session: _insert_evaluation(session, parameters)
    )
    try:
        await platform.reconciler.submit_waiting()
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
