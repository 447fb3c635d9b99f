"""Hands accepted records to Prefect: each becomes one flow run, whoever submits it, however often."""

import asyncio
import logging
from typing import Any

from api.orchestration.one_by_one import OneByOne
from api.orchestration.prefect_client import EVALUATE, FINETUNE, FlowRun, Orchestrator, PrefectRefused
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import submission_of

logger = logging.getLogger(__name__)

Repository = TrainingJobRepository | EvaluationRepository
KINDS: tuple[tuple[type[Repository], str], ...] = ((TrainingJobRepository, FINETUNE), (EvaluationRepository, EVALUATE))
"""What has a flow run behind it, and the deployment that runs it."""


class Submission:
    """Submits what waits. The submission's key is the run's idempotency key: two submissions make one run."""

    def __init__(self, database: Database, orchestrator: Orchestrator) -> None:
        self._database = database
        self._orchestrator = orchestrator
        self._one_at_a_time = asyncio.Lock()

    async def submit_waiting(self) -> None:
        """Hand to Prefect, oldest first, what it has not accepted yet.

        A record that Prefect refuses has failed, with what Prefect says, and holds up none behind it.
        Raises `ServiceDown` if Prefect does not answer, and at the end a group of what else went wrong.
        """
        one_by_one = OneByOne()
        async with self._one_at_a_time:
            for kind, deployment in KINDS:
                for record in await asyncio.to_thread(self._unsubmitted, kind):
                    with one_by_one.each(f"{kind.table.__tablename__} {record.id}"):
                        await self._submit(kind, deployment, record)
        one_by_one.done()

    async def submit(self, kind: type[Repository], record_id: int) -> None:
        """Hand a record to Prefect, unless it has it, and first what has waited for longer.

        Raises `ServiceDown`, and what goes wrong with this record; with others that is the controller's to tell.
        """
        others = OneByOne()
        async with self._one_at_a_time:
            for record in await asyncio.to_thread(self._unsubmitted, kind):
                if record.id < record_id:
                    with others.each(f"{kind.table.__tablename__} {record.id}"):
                        await self._submit(kind, dict(KINDS)[kind], record)
                elif record.id == record_id:
                    await self._submit(kind, dict(KINDS)[kind], record)

    async def _submit(self, kind: type[Repository], deployment: str, record: Any) -> None:
        said = submission_of(record)
        try:
            run = await self._orchestrator.submit(
                deployment,
                said.name,
                said.parameters,
                [said.tag],
                said.key,
                paused=record.status == "PAUSED",  # one of a restored backup
            )
        except PrefectRefused as error:
            logger.warning("Prefect refuses the run of %s: %s", said.name, error)
            await asyncio.to_thread(self._record_refusal, kind, record.id, str(error))
            return
        if not await asyncio.to_thread(self._record_run, kind, record.id, run):
            # Withdrawn or deleted meanwhile: the run would work for nobody.
            await self._orchestrator.delete(run.id)

    def _unsubmitted(self, kind: type[Repository]) -> list[Any]:
        with self._database.reading() as session:
            return list(kind(session).unsubmitted())

    def _record_run(self, kind: type[Repository], record_id: int, run: FlowRun) -> bool:
        """Store which run stands behind a record; return whether the record is still there."""
        with self._database.transaction() as session:
            record = kind(session).get(record_id)
            if record is not None:
                record.flow_run_id, record.deployment_id = run.id, run.deployment_id
            return record is not None

    def _record_refusal(self, kind: type[Repository], record_id: int, reason: str) -> None:
        with self._database.transaction() as session:
            repository: Any = kind(session)
            record = repository.get(record_id)
            if record is not None and record.flow_run_id is None:
                repository.record_state(record, "FAILED", utcnow(), reason)
