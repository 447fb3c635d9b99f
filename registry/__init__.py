"""What outlives a run: tables, MLflow tracking, the model registry, and where weights lie."""
