"""Prefect's server as one process of the platform (`python -m flows.prefect_server`), its SQLite made patient.

It is behind the platform's guards: no other site's page, and where there are keys nobody without one.
"""

import sys
from contextlib import _AsyncGeneratorContextManager

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from configs.settings import get_settings
from registry.guards.login import guarded


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


def main() -> None:
    """Serve Prefect's API and UI on the configured address."""
    settings = get_settings()
    if settings.lacks_services_secret:
        sys.exit(f"Can't start: {settings.lacks_services_secret}")
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url.startswith("sqlite"):
        set_database_config(PatientSqlite(connection_url=url))
    # Whoever may make a deployment may run a command on this machine.
    app = guarded(create_app(final=True), settings, own_login=True)
    uvicorn.run(app, host=settings.keyless_host, port=settings.prefect_port, log_level="warning")


if __name__ == "__main__":
    main()
