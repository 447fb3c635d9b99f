"""Alembic's entry point: runs migrations against the URL that `registry.database.upgrade` hands over."""

from alembic import context
from sqlalchemy import create_engine, pool

from registry.tables import Base


def run_migrations() -> None:
    """Run the migrations online, one transaction for all of them."""
    engine = create_engine(context.config.attributes["url"], poolclass=pool.NullPool, hide_parameters=True)
    with engine.connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
        with context.begin_transaction():
            context.run_migrations()
    engine.dispose()


run_migrations()
