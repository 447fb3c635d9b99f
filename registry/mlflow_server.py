"""MLflow's server as one process of the platform (`python -m registry.mlflow_server`), behind the platform's guards."""

import sys

import uvicorn
from mlflow.server.fastapi_app import app as mlflow_app
from starlette.types import ASGIApp

from configs.settings import KEEP_ALIVE_SECONDS, Settings, get_settings
from registry.guards.login import guarded


def create_app(settings: Settings) -> ASGIApp:
    """Return MLflow's application behind the guards.

    MLflow refuses foreign hosts itself, but for two paths and for websockets, and it takes every page of this machine,
    whatever its port, for its own. Its basic authentication needs Flask-WTF and has users of its own.
    """
    return guarded(mlflow_app, settings)


def main() -> None:
    """Serve MLflow's API and UI on the configured address."""
    settings = get_settings()
    if settings.lacks_services_secret:
        sys.exit(f"Can't start: {settings.lacks_services_secret}")
    # As a module: `mlflow server` would start this one only after importing as much again.
    uvicorn.run(
        create_app(settings),
        host=settings.keyless_host,
        port=settings.mlflow_port,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main()
