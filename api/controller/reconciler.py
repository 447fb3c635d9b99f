"""Keeps tables and Prefect in agreement: submits accepted records, mirrors states, adopts runs started elsewhere."""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from api.errors import ServiceDown
from api.orchestration.prefect_client import EVALUATE, FINETUNE, FlowRun, Orchestrator
from api.orchestration.recovery import cause, has_died, objection
from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.attempts import attempt_is_alive
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import status_of
from registry.submissions import (
    EVALUATION_TAG,
    JOB_TAG,
    evaluation_of_parameters,
    job_of_parameters,
    submission_of,
    uid_of_tags,
)
from registry.tables import Evaluation, TrainingJob

logger = logging.getLogger(__name__)

# What is changed elsewhere shows here within two seconds; what is changed here wakes the next pass at once.
INTERVAL_SECONDS = 1.0
# Prefect's filters return at most 200 rows a call.
PAGE = 200

Repository = TrainingJobRepository | EvaluationRepository
KINDS: tuple[tuple[type[Repository], str], ...] = ((TrainingJobRepository, FINETUNE), (EvaluationRepository, EVALUATE))


class Reconciler:
    """One pass a second; the tables converge on what Prefect says, whoever changed it."""

    def __init__(self, database: Database, orchestrator: Orchestrator) -> None:
        self._database = database
        self._orchestrator = orchestrator
        self._wake = asyncio.Event()
        self._submitting = asyncio.Lock()
        self._down = False

    async def run(self) -> None:
        """Reconcile for as long as the API runs; what is down is tried again in the next pass."""
        while True:
            try:
                await self.reconcile()
            except (ServiceDown, SQLAlchemyError) as error:
                if not self._down:
                    logger.warning("reconciling waits: %s", error)
                self._down = True
            else:
                self._down = False
            try:
                await asyncio.wait_for(self._wake.wait(), INTERVAL_SECONDS)
            except TimeoutError:
                continue
            self._wake.clear()

    def wake(self) -> None:
        """Make the next pass start now: something has just changed."""
        self._wake.set()

    async def reconcile(self) -> None:
        """Make one pass."""
        await self.submit_waiting()
        active = await self._orchestrator.active_flow_runs([deployment for _, deployment in KINDS])
        for kind, deployment in KINDS:
            await self._carry(kind, active[deployment])
            seen = {run.id for run in active[deployment]}
            rest = await asyncio.to_thread(self._unfinished_ids, kind)
            missing = [flow_run_id for flow_run_id in rest if flow_run_id not in seen]
            for start in range(0, len(missing), PAGE):
                asked = missing[start : start + PAGE]
                found = await self._orchestrator.flow_runs(asked)
                await self._carry(kind, found)
                gone = set(asked) - {run.id for run in found}
                await self._record_deleted(kind, deployment, gone)

    async def refresh(self, kind: type[Repository], flow_run_id: str) -> None:
        """Mirror one run's state now: what was changed in Prefect a moment ago must count for what is asked here."""
        found = await self._orchestrator.flow_runs([flow_run_id])
        await self._carry(kind, found)
        if not found:
            await self._record_deleted(kind, dict(KINDS)[kind], {flow_run_id})

    async def _carry(self, kind: type[Repository], runs: Sequence[FlowRun]) -> None:
        """Mirror the runs' states, make pauses last, and let those go on whose process has died."""
        died = await asyncio.to_thread(self._mirror, kind, runs)
        for run in runs:
            if run.pause_limited:
                await self._orchestrator.lift_pause_limit(run.id)
            if await self._orchestrator.is_stranded(dict(KINDS)[kind], run) and await self._is_known(kind, run):
                await self._orchestrator.discard(run)
                await asyncio.to_thread(self._submit_again, kind, run.id)
        for run in died:
            if run.state_type == "CANCELLING":
                await self._orchestrator.end_cancelled(run)
                continue
            reason, attempt = await asyncio.to_thread(self._objection, kind, run)
            if reason is None:
                await self._orchestrator.retry(run, "Its process died; it goes on from its newest checkpoint.")
            else:
                await self._orchestrator.give_up(run, reason)
            # Counted last: if Prefect did not answer, the next pass decides anew.
            await asyncio.to_thread(self._count_crash, kind, run, attempt)

    async def submit_waiting(self) -> None:
        """Hand to Prefect, oldest first, what it has not accepted yet; `ServiceDown` if it does not answer.

        The record's uid is the run's idempotency key: an answer that got lost makes no second run.
        """
        async with self._submitting:
            for kind, deployment in KINDS:
                for record in await asyncio.to_thread(self._unsubmitted, kind):
                    submission = submission_of(record)
                    run = await self._orchestrator.submit(
                        deployment, submission.name, submission.parameters, [submission.tag], submission.key
                    )
                    await asyncio.to_thread(self._mark_submitted, kind, record.id, run)

    def _unsubmitted(self, kind: type[Repository]) -> list[Any]:
        with self._database.reading() as session:
            return list(kind(session).unsubmitted())

    def _unfinished_ids(self, kind: type[Repository]) -> list[str]:
        with self._database.reading() as session:
            return [record.flow_run_id for record in kind(session).unfinished() if record.flow_run_id]

    def _mark_submitted(self, kind: type[Repository], record_id: int, run: FlowRun) -> None:
        with self._database.transaction() as session:
            record = kind(session).require(record_id)
            record.flow_run_id, record.deployment_id = run.id, run.deployment_id

    async def _is_known(self, kind: type[Repository], run: FlowRun) -> bool:
        def known() -> bool:
            with self._database.reading() as session:
                return kind(session).by_flow_run(run.id) is not None

        return await asyncio.to_thread(known)

    def _submit_again(self, kind: type[Repository], flow_run_id: str) -> None:
        with self._database.transaction() as session:
            repository: Any = kind(session)
            record = repository.by_flow_run(flow_run_id)
            if record is not None:
                repository.submit_again(record)

    def _mirror(self, kind: type[Repository], runs: Sequence[FlowRun]) -> list[FlowRun]:
        """Carry the runs' states into their records, and return the runs that have died.

        Only what differs takes the write lock.
        """
        with self._database.reading() as session:
            repository: Any = kind(session)
            records = {run.id: repository.by_flow_run(run.id) for run in runs}
        changed = [run for run in runs if _differs(records[run.id], run)]
        for run in changed:
            with self._database.transaction() as session:
                repository = kind(session)
                record = _record_of(repository, run)
                if record is not None:
                    _record(repository, record, run)
        return [run for run in runs if records[run.id] is not None and has_died(records[run.id], run)]

    def _objection(self, kind: type[Repository], run: FlowRun) -> tuple[str | None, int]:
        """Return why the run is not to go on, if anything is against it, and the number of the attempt that died."""
        with self._database.reading() as session:
            repository: Any = kind(session)
            record = repository.by_flow_run(run.id)
            return objection(record, run), record.attempt

    def _count_crash(self, kind: type[Repository], run: FlowRun, attempt: int) -> None:
        with self._database.transaction() as session:
            repository: Any = kind(session)
            record = repository.by_flow_run(run.id)
            if record is None or record.attempt != attempt:
                return  # the next one has begun already, and recorded that this one died
            # A worker that died before it began says nothing of the job.
            begun = run.state_type != "PENDING"
            if begun:
                repository.count_crash(record)
            if isinstance(record, TrainingJob):
                died = (
                    f"Attempt {record.attempt} died" if begun and record.attempt else "The worker died before it began"
                )
                repository.log(record.id, f"{died}: {cause(run)}")

    async def _record_deleted(self, kind: type[Repository], deployment: str, flow_run_ids: set[str]) -> None:
        """Record that Prefect has no such runs any more: each is submitted again, or its record is cancelled."""
        if not flow_run_ids:
            return
        deployment_id = await self._orchestrator.deployment_id(deployment, now=True)
        for flow_run_id in flow_run_ids:
            await asyncio.to_thread(self._record_one_deleted, kind, flow_run_id, deployment_id)

    def _record_one_deleted(self, kind: type[Repository], flow_run_id: str, deployment_id: str) -> None:
        with self._database.transaction() as session:
            kind(session).record_run_deleted(flow_run_id, deployment_id)


def _differs(record: TrainingJob | Evaluation | None, run: FlowRun) -> bool:
    if record is None:
        # Runs that a schedule made ahead of time become records when they are due.
        return run.expected_start is None or run.expected_start <= utcnow()
    newer = record.flow_state_at is None or run.state_at > record.flow_state_at
    return newer or record.status != _status(record, run)


def _status(record: TrainingJob | Evaluation, run: FlowRun) -> str:
    """Return the record's status; a paused job counts as running until its trainer has left the device."""
    status = status_of(run.state_type)
    if status == "PAUSED" and attempt_is_alive(record):
        return "RUNNING"
    if run.state_type == "CRASHED" and objection(record, run) is None:
        # In a few seconds it is scheduled again.
        return "PENDING"
    return status


def _record_of(repository: Any, run: FlowRun) -> Any:
    """Return the run's record, made now if the run was started in Prefect's UI or by a schedule."""
    if isinstance(repository, TrainingJobRepository):
        return repository.of_flow_run(run.id, uid_of_tags(run.tags, JOB_TAG), lambda: _new_job(repository, run))
    return repository.of_flow_run(
        run.id, uid_of_tags(run.tags, EVALUATION_TAG), lambda: _new_evaluation(repository, run)
    )


def _new_job(repository: TrainingJobRepository, run: FlowRun) -> TrainingJob | None:
    try:
        job = FinetuneParameters.model_validate(run.parameters.get("job"))
    except ValidationError:
        # The flow's own validation fails such a run, and Prefect shows why.
        return None
    known = ModelRepository(repository.session).get(job.model_id) is not None
    return job_of_parameters(job, run.id) if known else None


def _new_evaluation(repository: EvaluationRepository, run: FlowRun) -> Evaluation | None:
    try:
        evaluation = EvaluationParameters.model_validate(run.parameters.get("evaluation"))
    except ValidationError:
        return None
    known = ModelRepository(repository.session).get(evaluation.model_id) is not None
    return evaluation_of_parameters(evaluation, run.id) if known else None


def _record(repository: Any, record: TrainingJob | Evaluation, run: FlowRun) -> None:
    status = _status(record, run)
    if isinstance(record, TrainingJob):
        record.pausing = status == "RUNNING" and run.state_type == "PAUSED"
        record.cancelling = run.state_type == "CANCELLING"
    reason = (run.state_message or "").removeprefix("Flow run encountered an exception: ") or None
    # Of a run that was made here this is known from its submission; a person or a schedule made this one.
    record.deployment_id = record.deployment_id or run.deployment_id
    repository.record_state(record, status, run.state_at, reason)
