"""A job or an evaluation while it runs: a live line on stderr, until it ends."""

import time
from collections.abc import Callable

from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from api.cli.client import Json, PlatformClient
from api.cli.failures import Unreachable
from api.cli.terminal import ERR

POLL_SECONDS = 0.5
OUTAGE_SECONDS = 30.0
"""How long a platform that stopped answering is asked again: its API restarts in seconds."""
ENDED = ("COMPLETED", "FAILED", "CANCELLED")


def watch_job(client: PlatformClient, job_id: int) -> Json:
    """Show a job's progress until it has ended; returns it as it is then."""
    return _watch(client, f"/api/training/{job_id}", f"job {job_id}", job_line)


def watch_evaluation(client: PlatformClient, evaluation_id: int) -> Json:
    """Show an evaluation's progress until it has ended; returns it as it is then."""
    return _watch(client, f"/api/evaluations/{evaluation_id}", f"evaluation {evaluation_id}", lambda _: "")


def _watch(client: PlatformClient, path: str, name: str, line_of: Callable[[Json], str]) -> Json:
    # The first answer outside the bar: an unknown id is an error, not a bar at nought.
    record, answered = client.get(path), time.monotonic()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=20),
        TaskProgressColumn(),
        TextColumn("{task.fields[line]}", markup=False),
    )
    with Progress(*columns, console=ERR) as bar:
        task = bar.add_task(name, total=100, line="")
        while True:
            bar.update(
                task,
                description=f"{name} {state_of(record)}",
                completed=record["progress"] or 0,
                line=line_of(record),
                refresh=True,
            )
            if record["status"] in ENDED:
                return record
            time.sleep(POLL_SECONDS)
            try:
                record, answered = client.get(path), time.monotonic()
            except Unreachable:
                if time.monotonic() - answered > OUTAGE_SECONDS:
                    raise


def state_of(record: Json) -> str:
    """Return the status in one word, and what has been asked of a job that has not happened yet."""
    if record.get("cancelling"):
        return "CANCELLING"
    return "PAUSING" if record.get("pausing") else str(record["status"])


def job_line(job: Json) -> str:
    """Return a job's numbers: step, loss, held-out loss, tokens per second, time left; or its place in the queue."""
    if job["status"] == "PENDING" and job["queue_position"] is not None:
        return f"number {job['queue_position']} in the queue"
    parts = []
    if job["total_steps"]:
        parts.append(f"step {job['step']}/{job['total_steps']}")
    if job["current_loss"] is not None:
        parts.append(f"loss {job['current_loss']:.3f}")
    if job["eval_loss"] is not None:
        parts.append(f"held out {job['eval_loss']:.3f}")
    if job["status"] == "RUNNING" and job["tokens_per_second"] is not None:
        parts.append(f"{job['tokens_per_second']:.0f} tokens/s")
    if job["eta_seconds"] is not None:
        parts.append(f"{clock(job['eta_seconds'])} left")
    return ", ".join(parts)


def clock(seconds: float) -> str:
    """Return `0:07`, `12:05` or `3:00:01` for a number of seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
