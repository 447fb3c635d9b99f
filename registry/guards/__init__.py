"""What stands in front of every HTTP server of the platform: the API's, Prefect's, MLflow's and the engine's."""
