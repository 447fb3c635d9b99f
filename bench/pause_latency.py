"""How soon a paused job has left the device, and how soon a resumed one trains: `python -m bench.pause_latency`.

A job of short steps is paused and resumed, through our API and through Prefect's as its UI does, in all four
combinations by turns. A pause is timed until the trainer's process is gone and until the API says PAUSED; a resume
until the trainer notes its next step in the job's folder (when it is done; the API shows it up to 0.5 s later). The
save lies between the last step's note and the last change of the folder of checkpoints.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import psutil
from mlflow import MlflowClient

from configs.recipe import TrainingRecipe
from configs.settings import Settings
from registry.tables import Model
from tests.e2e.platform_process import ROOT, PlatformProcess

POLL_SECONDS = 0.01
LONGEST_SECONDS = 120
RECIPE = {"max_steps": 100_000, "epochs": 10_000, "batch_size": 1, "max_seq_length": 64}
LOADS = 5

Endpoint = Callable[[PlatformProcess, dict[str, Any]], None]


@dataclass(frozen=True)
class Cycle:
    """One pause and resume, in seconds from the request."""

    free: float
    paused: float
    save: float
    stepping: float


def pause_at_api(platform: PlatformProcess, job: dict[str, Any]) -> None:
    platform.http.post(f"/training/{job['id']}/pause").raise_for_status()


def resume_at_api(platform: PlatformProcess, job: dict[str, Any]) -> None:
    platform.http.post(f"/training/{job['id']}/resume").raise_for_status()


def pause_at_prefect(platform: PlatformProcess, job: dict[str, Any]) -> None:
    limit = (datetime.now(UTC) + timedelta(seconds=300)).isoformat()
    details = {"pause_reschedule": True, "pause_timeout": limit}
    state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
    ask_prefect(platform, job, "set_state", {"state": state, "force": False})


def resume_at_prefect(platform: PlatformProcess, job: dict[str, Any]) -> None:
    ask_prefect(platform, job, "resume", {})


def ask_prefect(platform: PlatformProcess, job: dict[str, Any], action: str, body: dict[str, Any]) -> None:
    answer = httpx.post(f"{platform.prefect_url}/flow_runs/{job['flow_run_id']}/{action}", json=body, timeout=30)
    answer.raise_for_status()
    assert answer.json()["status"] == "ACCEPT", answer.text


PAUSES: dict[str, Endpoint] = {"API": pause_at_api, "Prefect": pause_at_prefect}
RESUMES: dict[str, Endpoint] = {"API": resume_at_api, "Prefect": resume_at_prefect}


def seconds_until(condition: Callable[[], bool], since: float) -> float:
    """Return the seconds from the monotonic time `since` until the condition holds."""
    while not condition():
        assert time.monotonic() - since < LONGEST_SECONDS, "waited in vain"
        time.sleep(POLL_SECONDS)
    return time.monotonic() - since


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def without_limit(platform: PlatformProcess, job: dict[str, Any]) -> bool:
    """Return whether the platform has lifted the limit of a pause: only then does the pause last."""
    run = httpx.get(f"{platform.prefect_url}/flow_runs/{job['flow_run_id']}").json()
    return run["state"]["state_details"]["pause_timeout"] is None


def cycle(platform: PlatformProcess, job_id: int, pause: Endpoint, resume: Endpoint, threads: Executor) -> Cycle:
    job = platform.job(job_id)
    folder = platform.data_dir / "jobs" / str(job_id)
    trace, checkpoints = folder / "trace.jsonl", folder / "checkpoints"

    since = time.monotonic()
    asked = threads.submit(pause, platform, job)
    leaving = threads.submit(seconds_until, lambda: is_gone(job["attempt"]["pid"]), since)
    paused = seconds_until(lambda: platform.job(job_id)["status"] == "PAUSED", since)
    asked.result()
    free = leaving.result()

    save = checkpoints.stat().st_mtime - trace.stat().st_mtime
    seconds_until(lambda: without_limit(platform, job), time.monotonic())
    size = trace.stat().st_size

    since = time.monotonic()
    asked = threads.submit(resume, platform, job)
    stepping = seconds_until(lambda: trace.stat().st_size > size, since)
    asked.result()
    return Cycle(free, paused, save, stepping)


def measure(platform: PlatformProcess, cycles: int) -> tuple[dict[str, list[Cycle]], list[float]]:
    """Return the cycles by their two endpoints, and the seconds of the job's steps."""
    job_id = platform.train(model_id=1, **RECIPE)
    platform.wait_until(lambda: platform.job(job_id)["step"] > 5, 120, "the first steps")
    combinations = [(pause, resume) for resume in RESUMES for pause in PAUSES]
    measured: dict[str, list[Cycle]] = {}
    with ThreadPoolExecutor() as threads:
        for number in range(cycles):
            pause, resume = combinations[number % len(combinations)]
            one = cycle(platform, job_id, PAUSES[pause], RESUMES[resume], threads)
            measured.setdefault(f"pause {pause}, resume {resume}", []).append(one)
            # So that the next request may fall anywhere in a step and between two looks of whoever polls.
            time.sleep(random.uniform(1, 4))
    platform.http.post(f"/training/{job_id}/cancel").raise_for_status()
    job = platform.job(job_id)
    history = MlflowClient(platform.mlflow_url).get_metric_history(job["mlflow_run_id"], "loss")
    points = sorted((point.step, point.timestamp / 1000) for point in history)
    # The longest gaps are the pauses.
    steps = sorted(after - before for (_, before), (_, after) in pairwise(points))[:-cycles]
    return measured, steps


def load_seconds(data_dir: Path, base_model: str) -> list[float]:
    """Return the seconds in which weights and a new adapter come into memory, the files being in the cache."""
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"  # as every part of the platform has it; torch reads it on its import
    from tasks.models.sources import ModelSource
    from tasks.training.adapter import attach_lora

    settings = Settings(data_dir=data_dir, local_models_dir=ROOT / "data" / "models", allow_hub=False)
    source = ModelSource(settings, Model(base_model=base_model))
    taken = []
    for _ in range(LOADS + 1):
        started = time.monotonic()
        attach_lora(source.load_base(), TrainingRecipe())
        taken.append(time.monotonic() - started)
    return taken[1:]  # the first imports the model's code, which the trainer's process has already


def row(what: str, values: list[float], target: str = "") -> str:
    return f"{what:34} {statistics.median(values):7.2f} {max(values):7.2f}   {target}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cycles", type=int, default=20)
    cycles = parser.parse_args().cycles
    with tempfile.TemporaryDirectory() as folder:
        platform = PlatformProcess(Path(folder), ROOT / "data" / "models")
        # The tests save every two seconds; here a save is that of a pause.
        del platform.environment["LLM_PLATFORM_CHECKPOINT_INTERVAL_SECONDS"]
        try:
            platform.start()
            base_model = platform.http.get("/models/1").json()["base_model"]
            measured, steps = measure(platform, cycles)
        finally:
            platform.close()
        loads = load_seconds(Path(folder), base_model)
    every = [one for group in measured.values() for one in group]
    saves = [one.save for one in every if one.save > 0]  # none where the state had just been saved
    step, save, load = (statistics.median(values) for values in (steps, saves, loads))
    print(f"{len(every)} cycles, {len(steps)} steps; load of the machine (1 min) {os.getloadavg()[0]:.1f}")
    print(f"{'seconds':34} {'p50':>7} {'worst':>7}   target, from the medians below")
    leave = f"1 + step + save = {1 + step + save:.2f}"
    print(row("pause: process gone", [one.free for one in every], leave))
    print(row("pause: API says PAUSED", [one.paused for one in every], leave))
    print(row("resume: next step done", [one.stepping for one in every], f"3 + load = {3 + load:.2f}"))
    print(row("a step", steps) + f"p99 {sorted(steps)[int(0.99 * len(steps))]:.2f}")
    print(row("a save", saves))
    print(row("the model's load", loads))
    for endpoints, group in measured.items():
        print(row(f"{endpoints}: gone", [one.free for one in group]))
        print(row(f"{endpoints}: step", [one.stepping for one in group]))


if __name__ == "__main__":
    main()
