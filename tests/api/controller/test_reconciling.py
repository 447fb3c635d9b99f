"""Submitting and syncing against a real Prefect server: no record holds up those behind it."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import httpx
import pytest

from api.controller.reconciler import Reconciler
from api.orchestration.prefect_client import EVALUATE, Orchestrator
from api.orchestration.sightings import Sightings
from api.orchestration.state_sync import StateSync
from api.orchestration.submission import Submission
from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from tests.flows.test_worker import REPOSITORY, prefect

__all__ = ["prefect"]

DEPLOY = """
import asyncio
import shutil
from prefect.client.orchestration import get_client
from flows.deployments import DEPLOYMENTS_FILE, apply_deployments, ensure_work_pools, read_specs

async def deploy():
    specs = read_specs(DEPLOYMENTS_FILE)
    async with get_client() as client:
        await ensure_work_pools(client, specs)
    await apply_deployments(specs)

asyncio.run(deploy())
"""


@pytest.fixture(scope="module")
def deployed(prefect):
    subprocess.run([sys.executable, "-c", DEPLOY], env=prefect.environment, cwd=REPOSITORY, check=True, timeout=200)
    return prefect


@pytest.fixture
def database(tmp_path, migrated_sqlite):
    database = Database(f"sqlite:///{shutil.copy(migrated_sqlite, tmp_path)}")
    yield database
    database.close()


def with_orchestrator(deployed, work):
    """Run `work` with a client of the real server."""

    async def run():
        orchestrator = Orchestrator(str(deployed.client.base_url).rstrip("/"))
        try:
            return await work(orchestrator)
        finally:
            await orchestrator.close()

    return asyncio.run(run())


def add_jobs(database, *recipes):
    with database.transaction() as session:
        jobs, ids = TrainingJobRepository(session), []
        for changes in recipes:
            job = job_of_parameters(FinetuneParameters(model_id=1, job_name="a job"))
            job.recipe = {**job.recipe, **changes} if changes is not None else {}
            ids.append(jobs.add(job).id)
        return ids


def job(database, job_id):
    with database.reading() as session:
        return TrainingJobRepository(session).require(job_id)


TOO_LARGE = {"target_modules": ["x" * 700_000]}
"""Prefect takes parameters of 512 kB at most."""


def test_a_record_that_prefect_refuses_fails_and_those_behind_it_are_submitted(deployed, database):
    first, refused, last = add_jobs(database, {}, TOO_LARGE, {})
    with_orchestrator(deployed, lambda orchestrator: Submission(database, orchestrator).submit_waiting())
    assert job(database, first).flow_run_id
    assert job(database, last).flow_run_id
    assert job(database, refused).status == "FAILED"
    assert "Prefect refuses it (4" in job(database, refused).error


def test_a_record_that_can_not_be_read_holds_up_none_behind_it_and_is_said(deployed, database):
    damaged, last = add_jobs(database, {}, {})
    with database.transaction() as session:
        # What a hand at the database may do: a recipe that is no object.
        TrainingJobRepository(session).require(damaged).recipe = cast(Any, 5)
    with pytest.raises(ExceptionGroup, match="1 records") as raised:
        with_orchestrator(deployed, lambda orchestrator: Submission(database, orchestrator).submit_waiting())
    assert f"training_jobs {damaged}" in raised.value.exceptions[0].__notes__[0]
    assert job(database, last).flow_run_id


def test_who_submits_one_record_hears_nothing_of_another_that_is_damaged(deployed, database):
    damaged, waiting, own, later = add_jobs(database, {}, {}, {}, {})
    with database.transaction() as session:
        TrainingJobRepository(session).require(damaged).recipe = cast(Any, 5)
        TrainingJobRepository(session).require(later).recipe = cast(Any, 5)

    def submit(job_id):
        with_orchestrator(
            deployed, lambda orchestrator: Submission(database, orchestrator).submit(TrainingJobRepository, job_id)
        )

    submit(own)
    assert [bool(job(database, one).flow_run_id) for one in (damaged, waiting, own, later)] == [0, 1, 1, 0]
    with pytest.raises(TypeError, match="not a mapping"):
        submit(later)


def test_an_evaluation_that_is_withdrawn_while_it_is_submitted_leaves_no_run(deployed, database):
    with database.transaction() as session:
        evaluation = EvaluationRepository(session).add(evaluation_of_parameters(EvaluationParameters(model_id=1)))
    (after,) = add_jobs(database, {})

    class Withdrawing(Orchestrator):
        """The client of the evaluation gives up at the moment in which Prefect has accepted its run."""

        async def submit(self, deployment, *arguments, **options):
            run = await super().submit(deployment, *arguments, **options)
            if deployment == EVALUATE:
                made.append(run.id)
                with database.transaction() as session:
                    EvaluationRepository(session).withdraw(evaluation.id)
            return run

    made: list[str] = []

    async def reconcile():
        orchestrator = Withdrawing(str(deployed.client.base_url).rstrip("/"))
        try:
            reconciler = Reconciler(database, orchestrator)
            await reconciler.run_pass()
            await reconciler.run_pass()
        finally:
            await orchestrator.close()

    asyncio.run(reconcile())
    assert job(database, after).flow_run_id
    (run_id,) = made
    assert deployed.client.get(f"/flow_runs/{run_id}").status_code == httpx.codes.NOT_FOUND
    with database.reading() as session:
        assert EvaluationRepository(session).list() == []


def test_the_same_record_submitted_by_two_processes_has_one_run(deployed, database):
    (job_id,) = add_jobs(database, {})

    async def both(orchestrator):
        other = Orchestrator(str(deployed.client.base_url).rstrip("/"))
        try:
            submissions = Submission(database, orchestrator), Submission(database, other)
            await asyncio.gather(*(submission.submit_waiting() for submission in submissions))
        finally:
            await other.close()

    with_orchestrator(deployed, both)
    uid = job(database, job_id).uid
    found = deployed.client.post("/flow_runs/filter", json={"flow_runs": {"tags": {"all_": [f"training_job:{uid}"]}}})
    assert [run["id"] for run in found.json()] == [job(database, job_id).flow_run_id]


def submitted(deployed, database):
    """Return the id of a job that Prefect has accepted, and that of its run."""
    (job_id,) = add_jobs(database, {})
    with_orchestrator(deployed, lambda orchestrator: Submission(database, orchestrator).submit_waiting())
    return job_id, job(database, job_id).flow_run_id


def sync_twice(deployed, database, run_id, *, seconds):
    """Look at the run twice, so many seconds apart by the clock of the one who looks; return the job's statuses."""
    now, statuses = [0.0], []

    async def look(orchestrator):
        state_sync = StateSync(database, orchestrator, Sightings(clock=lambda: now[0]))
        for _ in range(2):
            await state_sync.refresh(TrainingJobRepository, run_id)
            with database.reading() as session:
                statuses.append(TrainingJobRepository(session).by_flow_run(run_id).status)
            now[0] += seconds

    with_orchestrator(deployed, look)
    return statuses


@pytest.mark.parametrize(("seconds", "then"), [(1.0, "PAUSED"), (60.0, "CANCELLED")])
def test_a_state_that_lasts_is_recorded_though_a_clock_set_back_makes_it_look_older(deployed, database, seconds, then):
    """What is overtaken, an answer on its way while another observer records a newer state, does not last."""
    job_id, run_id = submitted(deployed, database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.require(job_id), "PAUSED", utcnow() + timedelta(hours=1))
    cancelled = {"state": {"type": "CANCELLED"}, "force": True}
    deployed.client.post(f"/flow_runs/{run_id}/set_state", json=cancelled).raise_for_status()
    assert sync_twice(deployed, database, run_id, seconds=seconds) == ["PAUSED", then]


@pytest.mark.parametrize(("set_ahead", "delay", "is_moved"), [(3600, 0, True), (0, 3600, False), (3600, 86400, False)])
def test_a_run_that_a_clock_ahead_was_to_begin_at_once_begins(deployed, database, set_ahead, delay, is_moved):
    _, run_id = submitted(deployed, database)
    ahead = datetime.now(UTC) + timedelta(seconds=set_ahead)
    planned = ahead + timedelta(seconds=delay)
    state = {"type": "SCHEDULED", "name": "Resuming", "state_details": {"scheduled_time": planned.isoformat()}}
    body = {"state": state, "force": True}
    deployed.client.post(f"/flow_runs/{run_id}/set_state", json=body).raise_for_status()
    # Prefect writes the moment by its own clock; so it would have been written by one that was ahead.
    with closing(sqlite3.connect(deployed.folder / "prefect" / "prefect.db")) as connection, connection:
        of_run = "(SELECT state_id FROM flow_run WHERE id = ?)"
        moment = ahead.strftime("%Y-%m-%d %H:%M:%S.%f")
        connection.execute(f"UPDATE flow_run_state SET timestamp = ? WHERE id = {of_run}", (moment, run_id))
    before = deployed.client.get(f"/flow_runs/{run_id}").json()["state"]
    sync_twice(deployed, database, run_id, seconds=1.0)
    after = deployed.client.get(f"/flow_runs/{run_id}").json()["state"]
    assert (after != before) is is_moved
    assert after["name"] == "Resuming"
    begins = datetime.fromisoformat(after["state_details"]["scheduled_time"])
    assert (begins <= datetime.now(UTC)) is is_moved
