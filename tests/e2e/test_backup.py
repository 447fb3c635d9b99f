"""Backups at random moments while jobs run: each is restored, and no job is lost, done twice or changed."""

import random
import time
from pathlib import Path

import pytest

from tests.e2e.restored import assert_nothing_is_lost, restored, run_command
from tests.e2e.tiny_job import STEPS, act, assert_equals, submit, wait_for_step


@pytest.mark.timeout(1800)
def test_two_backups_at_random_moments_of_a_job(platform, tiny_model, undisturbed, models_dir, tmp_path):
    running, queued, paused = (submit(platform, tiny_model) for _ in range(3))
    act(platform, paused, "pause")
    jobs = [running, queued, paused]
    backups: list[Path] = []
    for number, step in enumerate(sorted(random.sample(range(5, STEPS // 2), 2))):
        wait_for_step(platform, running, step)
        target = tmp_path / f"backup-{number}"
        link = ["--previous", str(backups[-1])] if backups else []
        said = run_command(platform, "backup", str(target), *link)
        print(f"backup {number} after step {step}: {said}")
        backups.append(target)
    refusal = run_command(platform, "restore", str(backups[0]), code=1)
    assert "There is data already" in refusal or "is already running" in refusal
    # One of the two, for a restored platform runs all jobs to their ends; `make test-long` restores twenty.
    with restored(random.choice(backups), tmp_path / "data", models_dir) as again:
        assert_nothing_is_lost(again, undisturbed, jobs)
    # Backups disturb nothing.
    act(platform, paused, "resume")
    for job in jobs:
        assert_equals(platform, job, undisturbed)


@pytest.mark.long
@pytest.mark.timeout(4 * 3600)
def test_twenty_backups_at_random_moments(platform, tiny_model, undisturbed, models_dir, tmp_path):
    jobs: list[int] = []
    backups: list[tuple[Path, list[int]]] = []
    for number in range(20):
        while sum(platform.job(job)["status"] != "COMPLETED" for job in jobs) < 3:
            jobs.append(submit(platform, tiny_model))
            if random.random() < 0.3:
                act(platform, jobs[-1], "pause")
        waited = random.uniform(0, 10)
        time.sleep(waited)
        for job in jobs:
            if platform.job(job)["status"] == "PAUSED" and random.random() < 0.5:
                platform.http.post(f"/training/{job}/resume")
        target = tmp_path / f"backup-{number}"
        link = ["--previous", str(backups[-1][0])] if backups else []
        run_command(platform, "backup", str(target), *link)
        # Of those before only the newest few can have been unfinished.
        backups.append((target, jobs[-6:]))
        print(f"backup {number} {waited:.1f} s after the one before")
    platform.stop()
    for number, (backup, there) in enumerate(backups):
        with restored(backup, tmp_path / f"data-{number}", models_dir) as again:
            assert_nothing_is_lost(again, undisturbed, there)
        print(f"backup {number} is whole")
    platform.start()
