"""Which runs whose process died go on, and what the others are told to change."""

import os
from dataclasses import replace
from datetime import timedelta

from api.orchestration.prefect_client import FlowRun
from api.orchestration.recovery import CLAIM, MOST_CRASHES_AT_ONE_PLACE, SETTLE, has_died, objection
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


def a_run(state_type: str, age: timedelta = timedelta(0), message: str | None = None) -> FlowRun:
    return FlowRun(
        "run-1",
        state_type,
        state_type,
        message,
        utcnow() - age,
        {},
        [],
        None,
        deployment_id="deployment-1",
        called=False,
        has_queue=True,
        pause_limited=False,
    )


def test_a_crashed_run_goes_on_once_prefect_has_settled():
    job = a_job()
    assert not has_died(job, a_run("CRASHED"))
    assert has_died(job, a_run("CRASHED", SETTLE * 2))


def test_a_running_run_has_died_when_its_process_is_gone():
    mine = {
        "attempt_pid": os.getpid(),
        "attempt_process_started": process_started(os.getpid()),
        "attempt_started_at": utcnow(),
    }
    assert not has_died(a_job(**mine), a_run("RUNNING", CLAIM * 2))
    gone = {"attempt_pid": 2**22 + 1, "attempt_started_at": utcnow()}
    assert has_died(a_job(**gone), a_run("RUNNING", CLAIM * 2))
    assert not has_died(a_job(**gone), a_run("RUNNING"))
    assert not has_died(a_job(**gone), a_run("PAUSED", CLAIM * 2))


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
