"""Training jobs: start one, list them, watch one."""

from pathlib import Path
from typing import Annotated, Any

import typer

from api.cli.client import PlatformClient
from api.cli.failures import CommandFailed, WrongUsage
from api.cli.options import (
    DEFAULT_URL,
    AsJson,
    JobId,
    ModelId,
    Name,
    Newest,
    OfModel,
    Status,
    Url,
    list_query,
    named_settings,
)
from api.cli.overview import JOB_COLUMNS, job_row
from api.cli.terminal import note, print_json, print_table, say
from api.cli.watching import watch_job

UNNAMED = "Training job"


def _setting_names(incomplete: str) -> list[str]:
    """Return the hyperparameters for the shell to complete."""
    from configs.recipe import TrainingRecipe

    return [f"{name}=" for name in TrainingRecipe.model_fields if name.startswith(incomplete)]


def train(
    model: ModelId,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=VALUE]...",
            help="Hyperparameters, such as max_steps=30 (docs/api-beyond-the-page.md names all)",
            autocompletion=_setting_names,
        ),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="Name of the job, and of the model that it makes")] = UNNAMED,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="YAML file of hyperparameters; NAME=VALUE comes before it")
    ] = None,
    watching: Annotated[
        bool, typer.Option("--watch", help="Show progress until the job ends; Ctrl-C detaches, and the job goes on")
    ] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Start a training job."""
    hyperparameters = (_read_recipe(recipe) if recipe is not None else {}) | named_settings(settings or [])
    with PlatformClient(url) as client:
        created = client.post("/api/training", {"model_id": model, "job_name": name} | hyperparameters)
        if watching:
            _watch(client, created["id"], as_json)
        elif as_json:
            print_json(created)
        else:
            say(f"Job {created['id']} ({created['job_name']}) is {created['status']}.")
            note(f"See it go: llm-platform watch {created['id']}")


def watch(job: JobId, url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show a job's progress until it ends; Ctrl-C detaches, and the job goes on."""
    with PlatformClient(url) as client:
        _watch(client, job, as_json)


def jobs(
    status: Status = None,
    name: Name = None,
    model: OfModel = None,
    limit: Newest = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the training jobs, all of them or those that are asked for."""
    with PlatformClient(url) as client:
        answer = client.list("/api/training", "training_jobs", model_id=model, **list_query(status, name, limit))
    if as_json:
        print_json(answer)
    else:
        print_table(JOB_COLUMNS, [job_row(job) for job in answer["training_jobs"]])


def _watch(client: PlatformClient, job_id: int, as_json: bool) -> None:
    """Watch the job to its end; raises `CommandFailed` unless it completes."""
    try:
        job = watch_job(client, job_id)
    except KeyboardInterrupt:
        note(f"Detached: job {job_id} goes on. Attach again: llm-platform watch {job_id}")
        raise
    if as_json:
        print_json(job)
    if job["status"] != "COMPLETED":
        raise CommandFailed(f"Job {job_id} is {job['status']}{': ' + job['error'] if job['error'] else '.'}")
    if not as_json:
        loss = f", held-out loss {job['eval_loss']:.4f}" if job["eval_loss"] is not None else ""
        say(f"Job {job_id} is COMPLETED: {job['step']} steps{loss}; it made model {job['output_model_id']}.")


def _read_recipe(path: Path) -> dict[str, Any]:
    import yaml

    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WrongUsage(f"The recipe {path} can't be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WrongUsage(f"The recipe {path} is no YAML: {error}.") from error
    if not isinstance(recipe, dict):
        raise WrongUsage(f"The recipe {path} holds no hyperparameters: it must be a list of NAME: VALUE lines.")
    return recipe
