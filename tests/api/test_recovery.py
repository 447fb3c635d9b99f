"""Which runs whose process died go on, and what the others are told to change."""

import os
from dataclasses import replace
from datetime import timedelta

import pytest

from api.orchestration.prefect_client import FlowRun
from api.orchestration.recovery import CLAIM_SECONDS, MOST_CRASHES_AT_ONE_PLACE, SETTLE_SECONDS, has_died, objection
from api.orchestration.sightings import FORGOTTEN_SECONDS, Sightings
from configs.recipe import FinetuneParameters
from registry.attempts import machine, oom_kills, process_started
from registry.clock import utcnow
from registry.submissions import job_of_parameters
from registry.tables import TrainingJob

KILLED_MESSAGE = "Flow run process exited with non-zero status code -9."


def a_job(**columns) -> TrainingJob:
    job = job_of_parameters(FinetuneParameters(model_id=1, batch_size=16), "run-1")
    defaults = {"attempt": 1, "attempt_machine": machine(), "attempt_step": 0, "crashes": 0}
    for name, value in {**defaults, **columns}.items():
        setattr(job, name, value)
    return job


def a_run(state_type: str, message: str | None = None, **columns) -> FlowRun:
    run = FlowRun(
        id="run-1",
        state_type=state_type,
        state_name=state_type,
        state_message=message,
        state_at=utcnow(),
        scheduled_at=None,
        parameters={},
        tags=[],
        expected_start=None,
        deployment_id="deployment-1",
        called=False,
        has_queue=True,
        pause_limited=False,
    )
    return replace(run, **columns)


def test_a_crashed_run_goes_on_once_prefect_has_settled():
    job = a_job()
    assert not has_died(job, a_run("CRASHED"), SETTLE_SECONDS / 2)
    assert has_died(job, a_run("CRASHED"), SETTLE_SECONDS * 2)


def test_a_running_run_has_died_when_its_process_is_gone():
    mine = {
        "attempt_pid": os.getpid(),
        "attempt_process_started": process_started(os.getpid()),
        "attempt_started_at": utcnow(),
    }
    assert not has_died(a_job(**mine), a_run("RUNNING"), CLAIM_SECONDS * 2)
    gone = {"attempt_pid": 2**22 + 1, "attempt_started_at": utcnow()}
    assert has_died(a_job(**gone), a_run("RUNNING"), CLAIM_SECONDS * 2)
    assert not has_died(a_job(**gone), a_run("RUNNING"), CLAIM_SECONDS / 2)
    assert not has_died(a_job(**gone), a_run("PAUSED"), CLAIM_SECONDS * 2)


@pytest.mark.parametrize("hours", [-1, 0, 1])
def test_how_long_a_run_was_seen_counts_and_not_what_the_wall_clock_said(hours):
    now = [0.0]
    sightings = Sightings(clock=lambda: now[0])
    run = a_run("CRASHED", state_at=utcnow() + timedelta(hours=hours))
    assert sightings.seconds(run, None) == 0
    now[0] = 7.0
    assert sightings.seconds(run, None) == 7
    assert sightings.seconds(run, utcnow()) == 0  # another observer has recorded a state
    assert sightings.seconds(replace(run, state_at=utcnow()), None) == 0
    now[0] = FORGOTTEN_SECONDS * 3
    sightings.seconds(replace(run, id="run-2"), None)
    assert sightings.seconds(run, None) == 0


@pytest.mark.parametrize(
    ("set_ahead", "delay", "waits"),
    [(0, 0, False), (0, 3600, False), (3600, 0, True), (3600, 3600, False), (30, 0, False), (-3600, 0, False)],
)
def test_a_run_that_a_clock_ahead_of_this_one_scheduled_for_at_once_is_told_from_a_persons_schedule(
    set_ahead, delay, waits
):
    state_at = utcnow() + timedelta(seconds=set_ahead)
    run = a_run("SCHEDULED", state_at=state_at, scheduled_at=state_at + timedelta(seconds=delay))
    assert run.waits_for_a_wrong_clock is waits
    assert not replace(run, state_type="PENDING").waits_for_a_wrong_clock


def test_attempts_that_die_at_one_place_are_bounded():
    run = a_run("CRASHED", message="it broke")
    assert objection(a_job(crashes=MOST_CRASHES_AT_ONE_PLACE - 1, crash_step=7, attempt_step=7), run) is None
    assert objection(a_job(crashes=MOST_CRASHES_AT_ONE_PLACE, crash_step=7, attempt_step=8), run) is None
    reason = objection(a_job(crashes=MOST_CRASHES_AT_ONE_PLACE, crash_step=7, attempt_step=7), run)
    assert reason is not None
    assert "4 times in a row" in reason
    assert "it broke" in reason


def test_a_flow_that_another_flow_called_is_left_to_that_one():
    called = replace(a_run("CRASHED", message="it broke"), deployment_id=None, called=True)
    reason = objection(a_job(), called)
    assert reason is not None
    assert "part of" in reason
    assert "it broke" in reason


def test_a_process_that_the_kernel_killed_for_memory_is_not_tried_again():
    now = oom_kills()
    assert now is not None
    killed = a_run("CRASHED", message=KILLED_MESSAGE)
    reason = objection(a_job(attempt_oom_kills=now - 1), killed)
    assert reason is not None
    assert "batch_size (now 16" in reason
    assert objection(a_job(attempt_oom_kills=now), killed) is None
    assert objection(a_job(attempt_oom_kills=now + 1), killed) is None
    assert objection(a_job(attempt_oom_kills=None), killed) is None
    assert objection(a_job(attempt_oom_kills=now - 1), a_run("CRASHED", message="status code 1")) is None
    assert objection(a_job(attempt_oom_kills=now - 1, attempt_machine="elsewhere"), killed) is None


def test_one_that_may_take_less_memory_is_tried_again_some_times():
    now = oom_kills()
    assert now is not None
    killed = a_run("CRASHED", message=KILLED_MESSAGE)
    columns = {"attempt_oom_kills": now - 1, "crash_step": 7, "attempt_step": 7}
    may_take_less = a_job(**columns, crashes=MOST_CRASHES_AT_ONE_PLACE - 1)
    may_take_less.recipe["micro_batch"] = "auto"
    assert objection(may_take_less, killed) is None
    may_take_less.crashes = MOST_CRASHES_AT_ONE_PLACE
    assert "batch_size (now 16" in (objection(may_take_less, killed) or "")
