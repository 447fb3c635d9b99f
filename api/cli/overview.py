"""What there is: the platform's services and unfinished jobs, and the models."""

from typing import Any

from api.cli.client import PlatformClient
from api.cli.failures import CommandFailed
from api.cli.options import DEFAULT_URL, AsJson, Name, Newest, Status, Url, list_query
from api.cli.terminal import print_json, print_table, say

UNFINISHED = ("PENDING", "RUNNING", "PAUSED")


def status(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show how services and background loops fare, and unfinished jobs; exit code 1 unless all is well."""
    with PlatformClient(url) as client:
        health = client.get("/api/health")
        counts = client.get("/api/statistics")
        found = [client.list("/api/training", "training_jobs", status=status) for status in UNFINISHED]
        jobs = sorted((job for page in found for job in page["training_jobs"]), key=lambda job: job["id"])
    if as_json:
        print_json({"health": health, "statistics": counts, "unfinished_jobs": jobs})
    else:
        say(f"{url}: {health['status']}, version {health['version']}")
        print_table(("SERVICE", "STATE"), [(name, _state(service)) for name, service in health["parts"].items()])
        if health["loops"]:
            print_table(
                ("LOOP", "STATE", "LAST PASS", "LAST ERROR"),
                [
                    (name, "ok" if loop["ok"] else "stuck", _moment(loop["last_ok_at"]), loop["last_error"] or "-")
                    for name, loop in health["loops"].items()
                ],
            )
        say(
            f"{counts['total_models']} models, {counts['total_training_jobs']} training jobs "
            f"({counts['running_training_jobs']} running), {counts['total_evaluations']} evaluations, "
            f"{counts['total_generations']} generations"
        )
        if jobs:
            print_table(JOB_COLUMNS, [job_row(job) for job in jobs])
    if health["status"] != "healthy":
        raise CommandFailed("The platform is degraded: a service does not answer, or a loop does not pass.")


def models(
    status: Status = None, name: Name = None, limit: Newest = None, url: Url = DEFAULT_URL, as_json: AsJson = False
) -> None:
    """List the models, all of them or those that are asked for."""
    with PlatformClient(url) as client:
        answer = client.list("/api/models", "models", **list_query(status, name, limit))
    if as_json:
        print_json(answer)
        return
    print_table(
        ("ID", "NAME", "BASE MODEL", "SIZE", "STATUS"),
        [
            (model["id"], model["name"], model["base_model"], model["model_size"], model["status"])
            for model in answer["models"]
        ],
    )


JOB_COLUMNS = ("ID", "NAME", "MODEL", "STATUS", "PROGRESS", "CREATED")


def job_row(job: dict[str, Any]) -> tuple[Any, ...]:
    """Return a job's cells in the order of `JOB_COLUMNS`."""
    progress, created = f"{job['progress']} %", _moment(job["created_at"])
    return job["id"], job["job_name"], job["model_id"], job["status"], progress, created


def _moment(timestamp: str | None) -> str:
    return timestamp[:19].replace("T", " ") if timestamp else "-"


def _state(service: dict[str, Any]) -> str:
    return ", ".join(str(value) for value in service.values() if isinstance(value, str)) or "-"
