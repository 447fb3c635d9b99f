"""Prefect's server as one process of the platform (`python -m flows.prefect_server`), its SQLite made patient."""

from contextlib import _AsyncGeneratorContextManager

import uvicorn
from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import set_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL
from sqlalchemy.ext.asyncio import AsyncSession, AsyncSessionTransaction

from configs.settings import get_settings


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
    url = PREFECT_API_DATABASE_CONNECTION_URL.value()
    if url.startswith("sqlite"):
        set_database_config(PatientSqlite(connection_url=url))
    uvicorn.run(create_app(final=True), host=settings.keyless_host, port=settings.prefect_port, log_level="warning")


if __name__ == "__main__":
    main()
