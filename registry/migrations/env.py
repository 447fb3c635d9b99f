"""Alembic's entry point: runs migrations in the transaction of the connection that `registry.schema` hands over."""

from alembic import context

from registry.tables import Base

# The caller has begun the transaction, and commits it: all steps are there, or none.
context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, render_as_batch=True
)
context.run_migrations()
