"""The API's process: `python -m api.server`."""

import multiprocessing
import signal
import sys

import uvicorn
from fastapi import FastAPI

from api.app import create_app
from api.http_protocol import PatientProtocol
from api.launcher.launch import end_with_parent
from api.launcher.preflight import PreflightError, check_bindings
from configs.settings import KEEP_ALIVE_SECONDS, get_settings

SHUTDOWN_GRACE_SECONDS = 5
WORKER_SECONDS = 60
"""How long one of several processes may not answer the one that started them before it is replaced."""


def make_app() -> FastAPI:
    """Return the app of one API process; of several, each ends with the one that started them."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        end_with_parent(signal.SIGKILL, parent.pid)
    return create_app(get_settings())


def main() -> None:
    """Serve the API until told to stop."""
    settings = get_settings()
    try:
        check_bindings(settings)
    except PreflightError as error:
        sys.exit(f"Can't start: {error}")
    uvicorn.run(
        "api.server:make_app",
        factory=True,
        workers=settings.api_workers,
        timeout_worker_healthcheck=WORKER_SECONDS,
        http=PatientProtocol,
        host=settings.host,
        port=settings.api_port,
        access_log=False,
        timeout_graceful_shutdown=SHUTDOWN_GRACE_SECONDS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main()
