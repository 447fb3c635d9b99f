"""`llm-platform up`: runs the whole platform."""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from configs.settings import Settings


def up(
    host: Annotated[
        str | None,
        typer.Option("--host", help="Address the API binds to, in place of LLM_PLATFORM_HOST", show_default=False),
    ] = None,
    force_open: Annotated[
        bool,
        typer.Option("--force-open", help="Bind endpoints without keys there, too: anybody who reaches it can use it"),
    ] = False,
) -> None:
    """Run every service of the platform until Ctrl-C."""
    # Imported here: other commands need none of it.
    from api.launcher.environment import platform_environment
    from api.launcher.lock import instance_lock
    from api.launcher.preflight import PreflightError, check_all, check_writable
    from api.launcher.services import platform_services, with_secrets
    from api.launcher.watch import Watch

    given = {"host": host, "force_open": force_open or None}
    settings = read_settings(**{name: value for name, value in given.items() if value is not None})
    settings, probe_key = with_secrets(settings)
    run_dir = settings.data_dir / "run"
    try:
        check_writable(settings.data_dir)
        with instance_lock(run_dir / "lock", typer.echo) as lock:
            check_all(settings)
            typer.echo(f"Starting in {settings.data_dir} ...")
            _upgrade_databases(settings)
            watch = Watch(
                platform_services(settings, probe_key),
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


def _upgrade_databases(settings: "Settings") -> None:
    """Bring every database to the version that this software needs; PreflightError if one can't be."""
    # Imported here: the databases' library takes longer to import than a command to run.
    from api.launcher.preflight import PreflightError
    from registry.backup_files import BackupError
    from registry.restore import require_no_interrupted_restore
    from registry.schema import SchemaError
    from registry.stores import StoreError
    from registry.upgrade import upgrade_stores

    try:
        require_no_interrupted_restore(settings.data_dir)
        upgrade_stores(settings, typer.echo)
    except (BackupError, SchemaError, StoreError) as error:
        raise PreflightError(str(error)) from error


def read_settings(**given: Any) -> "Settings":
    """Return the settings, those given before the environment's, or exit with one line per variable that is wrong."""
    # Imported here: pydantic's settings take longer to import than a command to run.
    from pydantic import ValidationError

    from configs.settings import Settings

    try:
        return Settings(**given)
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(str(part) for part in problem["loc"])
            field = Settings.model_fields.get(name)
            # What is not shown of the settings may hold a secret.
            value = "not valid" if field is not None and not field.repr else repr(problem["input"])
            why = problem["msg"].removeprefix("Value error, ")
            typer.echo(f"Can't start: LLM_PLATFORM_{name.upper()} is {value}: {why}.", err=True)
        raise typer.Exit(1) from None


def addresses(settings: "Settings", seconds: float) -> str:
    """Return what a person reads once all is ready: where everything is, and a request to try."""
    api = f"http://{_named(settings.connect_host)}:{settings.api_port}"
    others = _named(settings.keyless_connect_host)
    key = ' -H "Authorization: Bearer $LLM_PLATFORM_API_KEY"' if settings.known_keys else ""
    return f"""
Ready after {seconds:.1f} s. Stop with Ctrl-C; logs are in {settings.logs_dir}.

  API              {api}/api   (documentation: {api}/api/docs)
  MLflow           http://{others}:{settings.mlflow_port}
  Prefect          http://{others}:{settings.prefect_port}

Try it:
  curl -s {api}/api/models/1/generate{key} -H 'Content-Type: application/json' \\
    -d '{{"prompt": "The capital of France is", "max_new_tokens": 16}}'
"""


def _named(host: str) -> str:
    return "localhost" if host == "127.0.0.1" else host
