"""`llm-platform up`: runs the whole platform."""

import importlib
import os
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from configs.settings import Settings


def up() -> None:
    """Run every part of the platform until Ctrl-C."""
    # Imported here: other commands need none of it.
    from api.supervision.environment import platform_environment
    from api.supervision.lock import instance_lock
    from api.supervision.parts import platform_parts
    from api.supervision.preflight import PreflightError, check_all, check_writable
    from api.supervision.watch import Watch

    settings = read_settings()
    run_dir = settings.data_dir / "run"
    try:
        check_writable(settings.data_dir)
        with instance_lock(run_dir / "lock", typer.echo) as lock:
            check_all(settings)
            typer.echo(f"Starting in {settings.data_dir} ...")
            importlib.import_module("registry.database").upgrade(settings.platform_database_url)
            watch = Watch(
                platform_parts(settings),
                run_dir,
                settings.logs_dir,
                typer.echo,
                lambda seconds: typer.echo(addresses(settings, seconds)),
            )
            code = watch.run(platform_environment(settings, os.environ), lock)
    except PreflightError as error:
        typer.echo(f"Can't start: {error}", err=True)
        code = 1
    raise typer.Exit(code)


def read_settings() -> "Settings":
    """Return the settings, or exit with one line per variable that is wrong."""
    # Imported here: pydantic's settings take longer to import than a command to run.
    from pydantic import ValidationError

    from configs.settings import Settings

    try:
        return Settings()
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"]).upper()
            typer.echo(f"Can't start: LLM_PLATFORM_{name} is {problem['input']!r}: {problem['msg']}.", err=True)
        raise typer.Exit(1) from None


def addresses(settings: "Settings", seconds: float) -> str:
    """Return what a person reads once all is ready: where everything is, and a request to try."""
    host = "localhost" if settings.connect_host == "127.0.0.1" else settings.connect_host
    api = f"http://{host}:{settings.api_port}"
    return f"""
Ready after {seconds:.1f} s. Stop with Ctrl-C; logs are in {settings.logs_dir}.

  API              {api}/api   (documentation: {api}/api/docs)
  MLflow           http://{host}:{settings.mlflow_port}
  Prefect          http://{host}:{settings.prefect_port}

Try it:
  curl -s {api}/api/models/1/generate -H 'Content-Type: application/json' \\
    -d '{{"prompt": "The capital of France is", "max_new_tokens": 16}}'
"""
