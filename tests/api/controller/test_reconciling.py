"""Submitting and syncing against a real Prefect server: no record holds up those behind it."""

import asyncio
import subprocess
import sys
from typing import Any, cast

import httpx
import pytest

from api.controller.reconciler import Reconciler
from api.orchestration.prefect_client import EVALUATE, Orchestrator
from api.orchestration.submission import Submission
from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.database import Database, upgrade
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from tests.flows.test_worker import REPOSITORY, prefect

__all__ = ["prefect"]

DEPLOY = """
import asyncio
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
def database(tmp_path):
    url = f"sqlite:///{tmp_path / 'platform.db'}"
    upgrade(url)
    database = Database(url)
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
