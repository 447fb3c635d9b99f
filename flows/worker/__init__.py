"""The worker process (`python -m flows.worker`), whose flow runs start as forks of a warm process."""
