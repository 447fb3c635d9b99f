"""Attempts live by their leases: not by host names, not by clocks that jump, and no longer than another's begin."""

import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest

from configs.recipe import FinetuneParameters
from registry.attempts import LEASE_SECONDS, LONGEST_BLIND_SECONDS, LeaseObserver, machine, process_started
from registry.clock import utcnow
from registry.repositories.flow_backed import RUN_DELETED, LeaseLost, Worker
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import job_of_parameters, submission_of
from registry.tables import TrainingJob

ELSEWHERE = Worker("another-host", 1, "another machine", 1)


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def observer(clock):
    return LeaseObserver(clock)


def attempt_of(worker: Worker) -> TrainingJob:
    job = job_of_parameters(FinetuneParameters(model_id=1))
    job.attempt, job.attempt_started_at, job.attempt_seen_at = 1, utcnow(), utcnow()
    job.attempt_host, job.attempt_pid = worker.host, worker.pid
    job.attempt_machine, job.attempt_process_started = worker.machine, worker.process_started
    return job


def of_process(pid: int, host: str | None = None) -> TrainingJob:
    return attempt_of(Worker(host or socket.gethostname(), pid, machine(), process_started(pid)))


def watch(observer: LeaseObserver, clock: Clock, job: TrainingJob, seconds: float) -> bool:
    """Look every second, as the controller does; return whether the attempt lives at the end."""
    alive = observer.is_alive(job)
    for _ in range(round(seconds)):
        clock.now += 1
        alive = observer.is_alive(job)
    return alive


def test_an_attempt_elsewhere_is_dead_when_its_lease_was_not_renewed(observer, clock):
    job = attempt_of(ELSEWHERE)
    assert watch(observer, clock, job, LEASE_SECONDS - 1)
    job.attempt_seen_at = utcnow()
    assert watch(observer, clock, job, LEASE_SECONDS - 1)
    assert not watch(observer, clock, job, 2)


@pytest.mark.parametrize("jump", [timedelta(hours=1), -timedelta(hours=1)])
def test_a_clock_that_jumps_kills_nobody_and_makes_nobody_immortal(observer, clock, jump):
    job = attempt_of(ELSEWHERE)
    assert watch(observer, clock, job, 10)
    job.attempt_seen_at = utcnow() + jump  # renewed, by a clock that has jumped
    assert watch(observer, clock, job, LEASE_SECONDS - 1)
    assert not watch(observer, clock, job, 2)


def test_while_nobody_could_look_no_lease_runs_out(observer, clock):
    job = attempt_of(ELSEWHERE)
    observer.is_alive(job)
    clock.now += 3600  # the database was away, or the observer was stopped
    assert observer.is_alive(job)
    assert not watch(observer, clock, job, LEASE_SECONDS - LONGEST_BLIND_SECONDS + 1)


def test_an_ended_attempt_elsewhere_is_dead_at_once_and_another_one_lives(observer, clock):
    job = attempt_of(ELSEWHERE)
    watch(observer, clock, job, LEASE_SECONDS + 1)
    job.attempt += 1
    assert observer.is_alive(job)
    job.attempt_ended_at = utcnow()
    assert not observer.is_alive(job)
    assert not observer.is_alive(job_of_parameters(FinetuneParameters(model_id=1)))


def test_a_process_of_this_machine_is_looked_at_whatever_the_host_is_called(observer, clock):
    assert watch(observer, clock, of_process(os.getpid(), "renamed"), LEASE_SECONDS * 2)
    gone = of_process(os.getpid(), "renamed")
    gone.attempt_pid = 2**22 + 1
    assert not observer.is_alive(gone)
    reused = of_process(os.getpid())
    assert reused.attempt_process_started is not None
    reused.attempt_process_started -= 1
    assert not observer.is_alive(reused)


def test_a_stopped_process_lives_until_its_lease_runs_out(observer, clock):
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        job = of_process(process.pid)
        process.send_signal(signal.SIGSTOP)
        while psutil.Process(process.pid).status() != psutil.STATUS_STOPPED:
            time.sleep(0.01)
        assert watch(observer, clock, job, LEASE_SECONDS - 1)
        assert not watch(observer, clock, job, 2)
        process.send_signal(signal.SIGCONT)
        while psutil.Process(process.pid).status() == psutil.STATUS_STOPPED:
            time.sleep(0.01)
        assert observer.is_alive(job)
    finally:
        process.kill()
        process.wait()
    assert not observer.is_alive(job)


def add_job(database, flow_run_id="run-1", deployment_id="deployment-1") -> int:
    with database.transaction() as session:
        job = job_of_parameters(FinetuneParameters(model_id=1), flow_run_id)
        job.deployment_id = deployment_id
        return TrainingJobRepository(session).add(job).id


def test_only_the_newest_attempt_holds_a_record(database):
    job_id = add_job(database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.begin_attempt(jobs.locked(job_id), ELSEWHERE)
        assert jobs.held(job_id, 1).id == job_id
        jobs.begin_attempt(jobs.locked(job_id), ELSEWHERE)
        with pytest.raises(LeaseLost, match="attempt 2"):
            jobs.held(job_id, 1)
        # Taken for dead: it may not go on, though nobody else has begun yet.
        jobs.count_crash(jobs.held(job_id, 2))
        with pytest.raises(LeaseLost):
            jobs.held(job_id, 2)
        with pytest.raises(LeaseLost, match="deleted"):
            jobs.held(job_id + 1, 1)


def test_a_job_whose_run_was_deleted_is_cancelled_with_the_reason_and_can_have_another_run(database):
    job_id = add_job(database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.require(job_id), "RUNNING", utcnow())
        assert not jobs.record_run_deleted("run-1", "deployment-1")
        assert not jobs.record_run_deleted("run-1", "deployment-1")
        job = jobs.require(job_id)
        assert (job.status, job.flow_run_id) == ("CANCELLED", None)
        assert RUN_DELETED in (job.error or "")
        assert list(jobs.unsubmitted()) == []
        first = submission_of(job).key
        jobs.submit_again(job)
        assert (job.status, job.error, job.completed_at) == ("PENDING", None, None)
        assert [one.id for one in jobs.unsubmitted()] == [job_id]
        assert submission_of(job).key != first


def test_a_job_whose_run_went_with_its_deployment_is_submitted_again(database):
    job_id = add_job(database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        assert jobs.record_run_deleted("run-1", "deployment-2")
        assert [(one.id, one.status) for one in jobs.unsubmitted()] == [(job_id, "PENDING")]


def test_an_ended_job_whose_run_was_deleted_stays_as_it_is(database):
    job_id = add_job(database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.require(job_id), "COMPLETED", utcnow())
        jobs.record_run_deleted("run-1", "deployment-2")
        assert jobs.require(job_id).status == "COMPLETED"
