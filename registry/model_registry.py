"""MLflow's model registry: every completed job becomes a version that `mlflow.pyfunc.load_model` can load."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.champions import RegisteredVersion


def register_version(
    tracking_uri: str,
    run_id: str,
    name: str,
    code: Path,
    artifacts: Mapping[str, Path],
    model_config: Mapping[str, Any],
    tags: Mapping[str, str],
) -> RegisteredVersion:
    """Log a model from code with its artifacts to the run and register it; no version becomes champion by that.

    A version that carries the same tags is returned as it is: a process that died after this step does not
    register twice.
    """
    client = MlflowClient(tracking_uri)
    version = _find(client, name, tags) or _create(tracking_uri, run_id, name, code, artifacts, model_config)
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)
    return RegisteredVersion(name, version)


def _find(client: MlflowClient, name: str, tags: Mapping[str, str]) -> str | None:
    try:
        versions = client.search_model_versions(f"name = '{name}'")
    except MlflowException:
        return None
    matching = (v for v in versions if all(v.tags.get(key) == value for key, value in tags.items()))
    found = next(matching, None)
    return str(found.version) if found is not None else None


def _create(
    tracking_uri: str,
    run_id: str,
    name: str,
    code: Path,
    artifacts: Mapping[str, Path],
    model_config: Mapping[str, Any],
) -> str:
    mlflow.set_tracking_uri(tracking_uri)
    with mlflow.start_run(run_id=run_id):
        info = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(code),
            artifacts={key: str(path) for key, path in artifacts.items()},
            model_config=dict(model_config),
            pip_requirements=["torch", "transformers", "peft", "safetensors"],
            registered_model_name=name,
        )
    return str(info.registered_model_version)
