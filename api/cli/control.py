"""A training job from outside: pause, resume, cancel, and its log."""

import json
from typing import Annotated

import typer

from api.cli.client import PlatformClient
from api.cli.options import DEFAULT_URL, AsJson, JobId, Url
from api.cli.terminal import print_json, say


def pause(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Pause a job: it returns when the trainer has left the device, with a checkpoint."""
    _change(job, "pause", url, as_json)


def resume(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Let a paused job go on from exactly where it was."""
    _change(job, "resume", url, as_json)


def cancel(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Cancel a job; its last checkpoint is kept."""
    _change(job, "cancel", url, as_json)


def _change(job: int, action: str, url: str, as_json: bool) -> None:
    with PlatformClient(url) as client:
        answer = client.post(f"/api/training/{job}/{action}")
    if as_json:
        print_json(answer)
    else:
        say(f"Job {answer['id']} is {answer['status']}: {answer['message']}")


def logs(
    job: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Print a job's log; with --json and -f every event, one a line."""
    with PlatformClient(url) as client:
        if not follow:
            log = client.get(f"/api/training/{job}")["logs"]
            if as_json:
                print_json({"id": job, "logs": log})
            elif log:
                say(log)
            return
        for event in client.events("GET", f"/api/training/{job}/events"):
            said = json.loads(event.data)
            if as_json:
                print_json(said)
            elif said["kind"] == "log":
                say(said["data"]["message"])
