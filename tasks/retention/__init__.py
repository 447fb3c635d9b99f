"""Retention: what may be removed from disk, databases, Prefect and MLflow, when, and the pass that removes it."""
