"""Keeps tables and Prefect in agreement: submits accepted records, syncs states, lets runs go on whose process died."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

from api.orchestration.one_by_one import OneByOne
from api.orchestration.prefect_client import FlowRun, Orchestrator
from api.orchestration.recovery import cause, objection
from api.orchestration.state_sync import StateSync
from api.orchestration.submission import KINDS, Repository, Submission
from registry.database import Database
from registry.tables import TrainingJob

# Prefect's filters return at most 200 rows a call.
PAGE = 200


QUIET_SECONDS = 20.0
"""How often Prefect is asked while nothing is under way and its events are heard."""


class Reconciler:
    """The tables converge on what Prefect says, whoever changed it."""

    def __init__(
        self, database: Database, orchestrator: Orchestrator, hears_events: Callable[[], bool] = lambda: False
    ) -> None:
        """`hears_events` says whether `look_now` is called when a run has changed in Prefect."""
        self._hears_events = hears_events
        self._asked_at = float("-inf")
        self._changes, self._changes_seen = 0, -1
        self.is_quiet = False
        """Whether the last pass had nothing to ask Prefect for."""
        self._database = database
        self._orchestrator = orchestrator
        self._submission = Submission(database, orchestrator)
        self._state_sync = StateSync(database, orchestrator)

    async def run_pass(self) -> None:
        """Make one pass. Raises `ServiceDown` while Prefect does not answer, and a group of what else went wrong."""
        one_by_one = OneByOne()
        with one_by_one.each("submission"):
            await self._submission.submit_waiting()
        self.is_quiet = await self._needs_nothing()
        if self.is_quiet:
            one_by_one.done()
            return
        began, changes = time.monotonic(), self._changes
        active = await self._orchestrator.active_flow_runs([deployment for _, deployment in KINDS])
        for kind, deployment in KINDS:
            await self._sync(kind, active[deployment], one_by_one)
            seen = {run.id for run in active[deployment]}
            rest = await asyncio.to_thread(self._unfinished_ids, kind)
            missing = [flow_run_id for flow_run_id in rest if flow_run_id not in seen]
            for start in range(0, len(missing), PAGE):
                asked = missing[start : start + PAGE]
                found = await self._orchestrator.flow_runs(asked)
                await self._sync(kind, found, one_by_one)
                gone = set(asked) - {run.id for run in found}
                await self._state_sync.record_deleted(kind, gone)
        self._asked_at, self._changes_seen = began, changes
        one_by_one.done()

    def look_now(self) -> None:
        """Make the next pass ask Prefect: a run has changed there."""
        self._changes += 1

    async def _needs_nothing(self) -> bool:
        """Return whether Prefect need not be asked: a request costs its server 10 ms of a core."""
        if self._changes_seen != self._changes or not self._hears_events():
            return False
        if time.monotonic() - self._asked_at >= QUIET_SECONDS:
            return False
        return not await asyncio.to_thread(self._under_way)

    def _under_way(self) -> bool:
        """Return whether a record may change by itself: a process that dies says nothing."""
        with self._database.reading() as session:
            return any(kind(session).under_way() for kind, _ in KINDS)

    async def _sync(self, kind: type[Repository], runs: Sequence[FlowRun], one_by_one: OneByOne) -> None:
        """Sync the runs' states, and let those go on whose process has died."""
        for run in await self._state_sync.sync(kind, runs, one_by_one):
            with one_by_one.each(f"flow run {run.id}"):
                await self._recover(kind, run)

    async def _recover(self, kind: type[Repository], run: FlowRun) -> None:
        if run.state_type == "CANCELLING":
            await self._orchestrator.end_cancelled(run)
            return
        reason, attempt = await asyncio.to_thread(self._objection, kind, run)
        if reason is None:
            await self._orchestrator.retry(run, "Its process died; it goes on from its newest checkpoint.")
        else:
            await self._orchestrator.give_up(run, reason)
        # Counted last: if Prefect did not answer, the next pass decides anew.
        await asyncio.to_thread(self._count_crash, kind, run, attempt)

    def _unfinished_ids(self, kind: type[Repository]) -> list[str]:
        with self._database.reading() as session:
            return [record.flow_run_id for record in kind(session).unfinished() if record.flow_run_id]

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
