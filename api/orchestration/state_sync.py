"""Carries the states of flow runs into their records, and adopts runs that were started elsewhere."""

import asyncio
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from api.orchestration.one_by_one import OneByOne
from api.orchestration.prefect_client import FlowRun, Orchestrator
from api.orchestration.recovery import has_died, objection
from api.orchestration.sightings import Sightings
from api.orchestration.submission import KINDS, Repository
from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.attempts import attempt_is_alive
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.run_states import status_of
from registry.submissions import EVALUATION_TAG, JOB_TAG, evaluation_of_parameters, job_of_parameters, uid_of_tags
from registry.tables import Evaluation, TrainingJob

LASTING_SECONDS = 3.0
"""A state that a run has been seen in for so long is its present one, whatever moment Prefect wrote beside it: an
answer of Prefect's that another observer has overtaken is not given twice."""


class StateSync:
    """Makes records say what Prefect says."""

    def __init__(self, database: Database, orchestrator: Orchestrator, sightings: Sightings | None = None) -> None:
        """`sightings` remember how long each run has been in its state; without any, what this object sees counts."""
        self._database = database
        self._orchestrator = orchestrator
        self._sightings = sightings or Sightings()

    async def refresh(self, kind: type[Repository], flow_run_id: str) -> None:
        """Sync one run's state now: what was changed in Prefect a moment ago must count for what is asked here."""
        found, one_by_one = await self._orchestrator.flow_runs([flow_run_id]), OneByOne()
        await self.sync(kind, found, one_by_one)
        one_by_one.done()
        if not found:
            await self.record_deleted(kind, {flow_run_id})

    async def sync(self, kind: type[Repository], runs: Sequence[FlowRun], one_by_one: OneByOne) -> list[FlowRun]:
        """Sync the runs' states, make pauses last, and return the runs whose process has died."""
        died, deployment = await asyncio.to_thread(self._record_states, kind, runs, one_by_one), dict(KINDS)[kind]
        for run in runs:
            if run.pause_limited:
                await self._orchestrator.lift_pause_limit(run.id)
            if run.waits_for_a_wrong_clock:
                await self._orchestrator.begin_now(run)
            if await self._orchestrator.is_stranded(deployment, run) and await self._is_known(kind, run):
                await self._orchestrator.discard(run)
                await asyncio.to_thread(self._submit_again, kind, run.id)
        return died

    async def record_deleted(self, kind: type[Repository], flow_run_ids: set[str]) -> None:
        """Record that Prefect has no such runs any more: each is submitted again, or its record is cancelled."""
        if not flow_run_ids:
            return
        deployment_id = await self._orchestrator.deployment_id(dict(KINDS)[kind], now=True)
        for flow_run_id in flow_run_ids:
            await asyncio.to_thread(self._record_one_deleted, kind, flow_run_id, deployment_id)

    def _record_one_deleted(self, kind: type[Repository], flow_run_id: str, deployment_id: str) -> None:
        with self._database.transaction() as session:
            kind(session).record_run_deleted(flow_run_id, deployment_id)

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

    def _record_states(self, kind: type[Repository], runs: Sequence[FlowRun], one_by_one: OneByOne) -> list[FlowRun]:
        """Store the states; only what differs takes the write lock."""
        with self._database.reading() as session:
            repository: Any = kind(session)
            records = {run.id: repository.by_flow_run(run.id) for run in runs}
        seconds = {run.id: self._sightings.seconds(run, _recorded_at(records[run.id])) for run in runs}
        for run in runs:
            with one_by_one.each(f"flow run {run.id}"):
                if _differs(records[run.id], run):
                    self._record_state(kind, run, settled=seconds[run.id] > LASTING_SECONDS)
        known = (run for run in runs if records[run.id] is not None)
        return [run for run in known if has_died(records[run.id], run, seconds[run.id])]

    def _record_state(self, kind: type[Repository], run: FlowRun, *, settled: bool) -> None:
        with self._database.transaction() as session:
            repository: Any = kind(session)
            record = _record_of(repository, run)
            if record is not None:
                _record(repository, record, run, settled=settled)


def _recorded_at(record: TrainingJob | Evaluation | None) -> datetime | None:
    return record.flow_state_at if record is not None else None


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
    known = ModelRepository(repository.session).get(job.model_id, "use") is not None
    return job_of_parameters(job, run.id) if known else None


def _new_evaluation(repository: EvaluationRepository, run: FlowRun) -> Evaluation | None:
    try:
        evaluation = EvaluationParameters.model_validate(run.parameters.get("evaluation"))
    except ValidationError:
        return None
    known = ModelRepository(repository.session).get(evaluation.model_id, "use") is not None
    return evaluation_of_parameters(evaluation, run.id) if known else None


def _record(repository: Any, record: TrainingJob | Evaluation, run: FlowRun, *, settled: bool) -> None:
    status = _status(record, run)
    if isinstance(record, TrainingJob):
        record.pausing = status == "RUNNING" and run.state_type == "PAUSED"
        record.cancelling = run.state_type == "CANCELLING"
    reason = (run.state_message or "").removeprefix("Flow run encountered an exception: ") or None
    # Of a run that was made here this is known from its submission; a person or a schedule made this one.
    record.deployment_id = record.deployment_id or run.deployment_id
    repository.record_state(record, status, run.state_at, reason, settled=settled)
