"""Backups of a running platform, by its command, and platforms that are restored from them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.platform_process import ROOT, PlatformProcess
from tests.e2e.tiny_job import adapter_bytes, assert_equals

COMMAND_SECONDS = 300


def run_command(platform: PlatformProcess, *arguments: str, code: int = 0) -> str:
    """Run `llm-platform` with a platform's settings; return what it prints."""
    command = [str(ROOT / ".venv/bin/llm-platform"), *arguments]
    done = subprocess.run(
        command,
        env=platform.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )
    assert done.returncode == code, done.stdout
    return done.stdout


@contextmanager
def restored(backup: Path, data_dir: Path, models_dir: Path) -> Iterator[PlatformProcess]:
    """Yield a running platform in a new data folder, restored from a backup."""
    platform = PlatformProcess(data_dir, models_dir)
    run_command(platform, "restore", str(backup))
    platform.start()
    try:
        yield platform
    finally:
        platform.close()


def assert_nothing_is_lost(platform: PlatformProcess, undisturbed: dict[str, Any], job_ids: list[int]) -> None:
    """Every job ends as the undisturbed one did: completed ones have, paused ones are paused until they are resumed."""
    again = platform.job(undisturbed["id"])
    assert again["status"] == "COMPLETED"
    assert again["attempt"] == undisturbed["attempt"]
    jobs = [platform.job(job_id) for job_id in job_ids]
    assert {job["status"] for job in jobs} <= {"PENDING", "RUNNING", "PAUSED", "COMPLETED"}
    for job in jobs:
        if job["status"] == "PAUSED":
            # It has a run in Prefect as soon as that answers, and is not started by it.
            platform.wait_until(partial(_flow_run, platform, job["id"]), 60, "a run of the paused job")
            assert platform.job(job["id"])["status"] == "PAUSED"
            answer = platform.http.post(f"/training/{job['id']}/resume")
            assert answer.status_code in (200, 202), answer.text
    for job in jobs:
        if job["status"] == "COMPLETED":
            assert adapter_bytes(platform, job) == adapter_bytes(platform, undisturbed)
        else:
            assert_equals(platform, job["id"], undisturbed)


def _flow_run(platform: PlatformProcess, job_id: int) -> Any:
    return platform.job(job_id)["flow_run_id"]
