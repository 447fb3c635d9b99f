"""The services of the platform, as health, errors and metrics name them."""

LABELS = {
    "database": "The database",
    "prefect": "The Prefect server",
    "mlflow": "The MLflow server",
    "worker": "The worker",
    "engine": "The inference engine",
    "controller": "The controller",
}
STARTING, OK, DOWN = "starting", "ok", "down"
WORK_POOLS = ("training", "evaluation")
"""The work pools of prefect.yaml, each served by the worker."""
