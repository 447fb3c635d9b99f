"""The environment of the platform's processes: our settings, and those of Prefect and MLflow that follow from them."""

import json
from collections.abc import Mapping
from pathlib import Path

from configs.settings import Settings
from registry.guards.login import auth_string

_DROPPED = (
    # Of a person's own Prefect or MLflow, which would send our services to another server.
    *("PREFECT_PROFILE", "PREFECT_API_KEY", "PREFECT_API_AUTH_STRING", "PREFECT_SERVER_API_AUTH_STRING"),
    *("MLFLOW_REGISTRY_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    # A person's own key to the API: no service asks the API for anything.
    "LLM_PLATFORM_API_KEY",
)

_PREFECT_PACE = {
    # Loops of Prefect's server that nothing here waits for; each looks at its whole database every 5 to 20 s else.
    "PREFECT_SERVER_SERVICES_LATE_RUNS_LOOP_SECONDS": "30",
    "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "15",  # a schedule that was just switched on
    "PREFECT_SERVER_SERVICES_CLEANUP_RECONCILER_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_REPOSSESSOR_LOOP_SECONDS": "60",
    "PREFECT_SERVER_SERVICES_CANCELLATION_CLEANUP_LOOP_SECONDS": "60",
    "PREFECT_SERVER_EVENTS_PROACTIVE_GRANULARITY": "PT30S",
}


def platform_environment(settings: Settings, inherited: Mapping[str, str]) -> dict[str, str]:
    """Return what every service gets: `inherited`, overridden by all that the platform decides."""
    kept = {name: value for name, value in inherited.items() if name not in _DROPPED}
    return (
        kept
        | _own_variables(settings)
        | _prefect_variables(settings)
        | _mlflow_variables(settings)
        | {
            "PYTHONUNBUFFERED": "1",
            "DO_NOT_TRACK": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            # torch's threads spin between operators by default. Beside a trainer on the same cores that made a token
            # of the starter model cost 230 to 430 ms of CPU time instead of 40 to 60.
            "OMP_WAIT_POLICY": "PASSIVE",
            "TOKENIZERS_PARALLELISM": "false",  # flow runs are forks
            "PYTORCH_NVML_BASED_CUDA_CHECK": "1",  # asking for a GPU must not initialise CUDA before a fork
        }
    )


def _own_variables(settings: Settings) -> dict[str, str]:
    """Every setting as its variable, so that services agree whatever folder they run in."""
    variables = {}
    allowed_hosts = list(dict.fromkeys([*settings.allowed_hosts, settings.connect_host]))
    for name, value in settings.model_copy(update={"allowed_hosts": allowed_hosts}):
        if value is not None:
            text = str(value) if isinstance(value, str | Path) else json.dumps(value)
            variables[f"LLM_PLATFORM_{name.upper()}"] = text
        elif Settings.model_fields[name].default is not None:
            variables[f"LLM_PLATFORM_{name.upper()}"] = "null"  # chosen: left out it would be the default
    return variables


def _prefect_variables(settings: Settings) -> dict[str, str]:
    wildcard = settings.keyless_connect_host != settings.keyless_host
    origins = [f"http://{name}:{settings.prefect_port}" for name in settings.allowed_hosts if ":" not in name]
    variables = {
        "PREFECT_HOME": str(settings.data_dir / "prefect"),
        "PREFECT_API_URL": settings.prefect_api_url,
        # A browser elsewhere can't reach the loopback address: there, the API is where the page came from.
        "PREFECT_UI_API_URL": "/api" if wildcard else settings.prefect_api_url,
        "PREFECT_UI_URL": settings.prefect_api_url.removesuffix("/api"),
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": ",".join(origins),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_V2_ENABLED": "false",  # the first UI makes no request to the outside
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED": "false",  # a paused job stays paused
        "PREFECT_LOGGING_COLORS": "false",
        **_PREFECT_PACE,
        # Old events, as by default, and logs and artifacts whose run retention has deleted.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,orphans",
    }
    if settings.services_secret is not None:
        variables["PREFECT_SERVER_API_AUTH_STRING"] = auth_string(settings.services_secret)
        variables["PREFECT_API_AUTH_STRING"] = auth_string(settings.services_secret)
    if settings.prefect_database_url is not None:
        variables["PREFECT_API_DATABASE_CONNECTION_URL"] = settings.prefect_database_url
    return variables


def _mlflow_variables(settings: Settings) -> dict[str, str]:
    hosts = [_bracketed(host) for host in dict.fromkeys([*settings.allowed_hosts, settings.keyless_connect_host])]
    login = {}
    if settings.services_login is not None:
        user, password = settings.services_login
        login = {"MLFLOW_TRACKING_USERNAME": user, "MLFLOW_TRACKING_PASSWORD": password}
    return login | {
        "MLFLOW_TRACKING_URI": settings.mlflow_url,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # An outage is noticed at once and waited out by the job itself, which says so in its log.
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join([*hosts, *(f"{host}:*" for host in hosts)]),
        # What `mlflow server` sets for the application that it starts.
        "_MLFLOW_SERVER_FILE_STORE": settings.mlflow_store_url,
        "_MLFLOW_SERVER_REGISTRY_STORE": settings.mlflow_store_url,
        "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
        "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
        "_MLFLOW_SERVER_ARTIFACT_DESTINATION": str(settings.mlflow_artifacts_dir),
    }


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
