"""Runs migrations of the platform's tables in a transaction that the caller has begun."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection

MIGRATIONS = Path(__file__).parent / "migrations"


def run_migrations(connection: Connection, to: str) -> None:
    """Run the migrations up to a revision; the caller commits."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["connection"] = connection
    command.upgrade(config, to)
