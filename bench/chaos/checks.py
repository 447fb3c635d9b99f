"""What must hold of every job when all have ended, and of the machine when the platform has stopped."""

import time
from collections import Counter
from typing import Any

import httpx
from mlflow import MlflowClient

from bench.chaos.kinds import Outcome, read_outcome, spans
from bench.chaos.ledger import Job, Ledger
from bench.chaos.observer import lock_holders, trace_writers
from bench.chaos.platform import ChaosPlatform

FINISHED_SECONDS = 5.0
"""How long after a job's completion its MLflow run may take to be FINISHED."""
EVENTS_PER_PAGE = 1000
PREFECT_PAGE = 200


def check_job(platform: ChaosPlatform, job: Job, reference: Outcome) -> list[str]:
    """Return what is wrong with a job that should have completed; nothing if it equals the undisturbed one."""
    detail = platform.job(job.id or 0)
    if detail["status"] != "COMPLETED":
        return [f"is {detail['status']}: {detail['error']}"]
    wrong = read_outcome(platform, detail["mlflow_run_id"]).differences(reference)
    wrong += _wrong_events(platform, detail)
    wrong += _wrong_runs(platform, detail)
    leftovers = sorted(path.name for path in platform.data_dir.glob(f"jobs/{job.id}/checkpoints/.unfinished-*"))
    return wrong + ([f"left unfinished checkpoints: {leftovers}"] if leftovers else [])


def _wrong_events(platform: ChaosPlatform, detail: dict[str, Any]) -> list[str]:
    steps: Counter[int] = Counter()
    after = 0
    while True:
        path = f"/training/{detail['id']}/events?after={after}&limit={EVENTS_PER_PAGE}"
        page = platform.http.get(path).json()["events"]
        steps.update(event["data"]["step"] for event in page if event["kind"] == "step")
        if len(page) < EVENTS_PER_PAGE:
            break
        after = page[-1]["id"]
    missing = [step for step in range(1, detail["total_steps"] + 1) if not steps[step]]
    twice = sorted(step for step, count in steps.items() if count > 1)
    return [f"step events missing {spans(missing)}, twice {spans(twice)}"] if missing or twice else []


def _wrong_runs(platform: ChaosPlatform, detail: dict[str, Any]) -> list[str]:
    """Check that a job has one run in MLflow and in Prefect, one registered version and one model."""
    wrong = []
    client = MlflowClient(platform.mlflow_url)
    experiment = client.get_run(detail["mlflow_run_id"]).info.experiment_id
    runs = client.search_runs([experiment], f"tags.training_job_id = '{detail['id']}'")
    if len(runs) != 1:
        wrong.append(f"has {len(runs)} MLflow runs")
    deadline = time.monotonic() + FINISHED_SECONDS
    while (status := client.get_run(detail["mlflow_run_id"]).info.status) != "FINISHED":
        if time.monotonic() > deadline:
            wrong.append(f"its MLflow run is {status}")
            break
        time.sleep(0.2)
    versions = client.search_model_versions(f"run_id = '{detail['mlflow_run_id']}'")
    if len(versions) != 1:
        wrong.append(f"has {len(versions)} registered versions")
    run = httpx.get(f"{platform.prefect_url}/flow_runs/{detail['flow_run_id']}").raise_for_status().json()
    tagged = _flow_runs(platform, {"tags": {"all_": [tag for tag in run["tags"] if tag.startswith("training_job:")]}})
    if [one["id"] for one in tagged] != [detail["flow_run_id"]]:
        wrong.append(f"has the flow runs {[one['id'] for one in tagged]}, not just {detail['flow_run_id']}")
    return wrong


def check_numbers(platform: ChaosPlatform, job_ids: list[int]) -> list[str]:
    """Return what is wrong with the lists: jobs, their models and their flow runs, each once."""
    wrong = []
    listed = [job["id"] for job in platform.http.get("/training").json()["training_jobs"]]
    if sorted(listed) != sorted(job_ids):
        wrong.append(f"the API lists the jobs {listed}, submitted were {job_ids}")
    made = Counter[int]()
    for model in platform.http.get("/models").json()["models"]:
        parameters = platform.http.get(f"/models/{model['id']}").json()["parameters"] or {}
        if "training_job_id" in parameters:
            made[parameters["training_job_id"]] += 1
    if made != Counter(job_ids):
        wrong.append(f"jobs made models {dict(made)}, each of {job_ids} should have made one")
    runs = len(_flow_runs(platform, {}))
    if runs != len(job_ids):
        wrong.append(f"Prefect has {runs} flow runs for {len(job_ids)} jobs")
    return wrong


def _flow_runs(platform: ChaosPlatform, which: dict[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        body = {"flows": {"name": {"any_": ["finetune"]}}, "flow_runs": which, "offset": len(found)}
        page = httpx.post(f"{platform.prefect_url}/flow_runs/filter", json=body).raise_for_status().json()
        found += page
        if len(page) < PREFECT_PAGE:
            return found


def check_leftovers(platform: ChaosPlatform) -> list[str]:
    """Return what a stopped platform has left on the machine: processes, held locks, half-written files."""
    wrong = [f"the process {process.pid} is left: {process.cmdline()}" for process in platform.processes()]
    wrong += [f"job {job_id}'s lock or trace is held by the process {pid}" for job_id, pid in _held(platform)]
    building = sorted(str(path) for path in platform.data_dir.glob("adapters/*.building"))
    return wrong + ([f"half-written adapters: {building}"] if building else [])


def _held(platform: ChaosPlatform) -> list[tuple[int, int]]:
    return sorted(lock_holders(platform.data_dir) | trace_writers(platform.data_dir))


def count_crashes(platform: ChaosPlatform, ledger: Ledger) -> tuple[int, int]:
    """Return how many attempts the jobs took in all, and how many of them died and were recovered from."""
    details = [platform.job(job.id or 0) for job in ledger.accepted()]
    died = sum(
        line.startswith("Attempt ") and " died: " in line for one in details for line in one["logs"].splitlines()
    )
    return sum(len(one["attempts"]) for one in details), died
