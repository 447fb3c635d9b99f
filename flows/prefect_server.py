"""Prefect's server as one process of the platform (`python -m flows.prefect_server`), its SQLite made patient.

It is behind the platform's guards: no other site's page, and where there are keys nobody without one.
"""

import sys
from contextlib import _AsyncGeneratorContextManager
from datetime import timedelta
from functools import partial

import docket
import uvicorn
from prefect.server.api import background_workers
from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from configs.settings import KEEP_ALIVE_SECONDS, get_settings
from registry.guards.login import guarded

BACKGROUND_SECONDS = 1.0
"""How exactly the server's background tasks keep their time. Its own 0.25 s took a third of what it takes idle."""


class PatientSqlite(AioSqliteConfiguration):
    """Takes SQLite's write lock when a transaction begins, not at its first write.

    Prefect's transactions read first. When another one writes in between, SQLite refuses the later write at
    once, whatever the busy timeout, and the server answers 503: seen under the load of a single job.
    """

    def begin_transaction(
        self, session: AsyncSession, with_for_update: bool = False
    ) -> _AsyncGeneratorContextManager[AsyncSessionTransaction, None]:
        """Begin a transaction that waits for its turn to write."""
        return super().begin_transaction(session, with_for_update=True)


def poll_less() -> None:
    """Have the queue of the server's background tasks, which has no settings for it, look less often what is due."""
    pause = timedelta(seconds=BACKGROUND_SECONDS)
    patient = partial(docket.Worker, minimum_check_interval=pause, scheduling_resolution=pause)
    background_workers.Worker = patient  # type: ignore[assignment, attr-defined]


def main() -> None:
    """Serve Prefect's API and UI on the configured address."""
    settings = get_settings()
    poll_less()
    if settings.lacks_services_secret:
        sys.exit(f"Can't start: {settings.lacks_services_secret}")
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url.startswith("sqlite"):
        set_database_config(PatientSqlite(connection_url=url))
    # Whoever may make a deployment may run a command on this machine.
    app = guarded(create_app(final=True), settings, own_login=True)
    uvicorn.run(
        app,
        host=settings.keyless_host,
        port=settings.prefect_port,
        log_level="warning",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
    )


if __name__ == "__main__":
    main()
