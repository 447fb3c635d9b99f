"""A process dies, or all of them do: an accepted job goes on by itself, and ends as if nothing had happened."""

import random
import signal

import psutil

from tests.e2e.tiny_job import STEPS, act, assert_equals, event_steps, start, submit, wait_for_step


def kill(pid: int) -> None:
    psutil.Process(pid).send_signal(signal.SIGKILL)


def test_a_trainer_killed_at_three_random_steps_goes_on_exactly(platform, tiny_model, undisturbed):
    steps = sorted(random.sample(range(5, STEPS // 2), 3))
    print(f"killing after steps {steps}")
    job_id = submit(platform, tiny_model)
    for number, step in enumerate(steps, start=1):
        platform.wait_until(lambda n=number: len(platform.job(job_id)["attempts"]) == n, 60, f"attempt {number}")
        kill(wait_for_step(platform, job_id, step)["attempt"]["pid"])
    job = assert_equals(platform, job_id, undisturbed)
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["died", "died", "died", "completed"]


def test_a_killed_worker_leaves_a_job_that_goes_on(platform, tiny_model, undisturbed):
    job_id = start(platform, tiny_model)
    trainer = psutil.Process(platform.job(job_id)["attempt"]["pid"])
    forkserver = trainer.parent()
    kill(forkserver.parent().pid)
    platform.wait_until(lambda: not trainer.is_running(), 30, "the trainer to leave with its worker")
    assert len(assert_equals(platform, job_id, undisturbed)["attempts"]) == 2


def test_killed_servers_do_not_disturb_the_trainer(platform, tiny_model, undisturbed):
    job_id = start(platform, tiny_model)
    killed = {service: platform.pid(service) for service in ("prefect", "mlflow", "api")}
    for pid in killed.values():
        kill(pid)

    def restarted() -> bool:
        return all(platform.pid(service) not in (0, pid) for service, pid in killed.items())

    # Asked at once, an API process that has a moment to live may still say what it saw before.
    platform.wait_until(restarted, 60, "the supervisor to start them again")
    platform.wait_until(lambda: platform.health() == "healthy", 120, "everything to be back")
    job = assert_equals(platform, job_id, undisturbed)
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["completed"]


def test_a_power_cut_costs_no_job(platform, tiny_model, undisturbed):
    running, queued = start(platform, tiny_model), submit(platform, tiny_model)
    paused = submit(platform, tiny_model)
    act(platform, paused, "pause")
    platform.cut_power()
    platform.start()
    assert platform.job(paused)["status"] == "PAUSED"
    act(platform, paused, "resume", 202)
    for job_id in (running, queued, paused):
        assert_equals(platform, job_id, undisturbed)


def test_a_stopped_platform_goes_on_where_it_was(platform, tiny_model, undisturbed):
    job_id = start(platform, tiny_model)
    platform.stop()
    platform.start()
    job = assert_equals(platform, job_id, undisturbed)
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["stopped", "completed"]


def test_a_killed_rank_of_two_leaves_a_job_that_goes_on(platform, tiny_model):
    job_id = start(platform, tiny_model, method="full", devices=2, sharding="full", max_steps=100, auto_evaluate=False)
    trainer = psutil.Process(platform.job(job_id)["attempt"]["pid"])
    (rank,) = (child for child in trainer.children() if "resource_tracker" not in " ".join(child.cmdline()))
    kill(rank.pid)
    job = platform.wait_for_job(job_id, "COMPLETED")
    assert [attempt["outcome"] for attempt in job["attempts"]] == ["died", "completed"]
    assert "Stopped: the process of rank 1 ended before the run, with code -9" in job["logs"]
    assert sorted(set(event_steps(platform, job))) == list(range(1, 101))
    assert job["memory_plan"]["sharded"]
