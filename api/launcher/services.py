"""The services of the platform: what each one runs, and its readiness probe."""

import base64
import http.client
import json
import secrets
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from api.services import OK, WORK_POOLS
from configs.keys import Scope, new_key
from configs.settings import Settings

PROBE_TIMEOUT_SECONDS = 30
SECRET_BYTES = 32
PROBE_NAME = "up"
"""Name of the key by which `llm-platform up` asks the API whether it is ready."""


@dataclass(frozen=True)
class Service:
    """One process of the platform."""

    name: str
    command: tuple[str, ...]
    ready: Callable[[datetime], bool]
    """Whether the service serves, given when it was started; raises OSError while it can't be reached."""
    stops_first: bool = True
    """Services that use others stop before them."""
    orphan_signal: str = "SIGKILL"
    """What it gets should the process supervisor be killed."""
    stop_seconds: int = 5
    """Time to leave after SIGTERM."""


def fetch(host: str, port: int, path: str, body: object | None = None, authorization: str | None = None) -> Any:
    """Return the JSON answer of a GET (or a POST, given a body); None for any status but 200."""
    connection = http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_SECONDS)
    headers = {} if authorization is None else {"Authorization": authorization}
    try:
        if body is None:
            connection.request("GET", path, headers=headers)
        else:
            connection.request("POST", path, json.dumps(body), headers | {"Content-Type": "application/json"})
        response = connection.getresponse()
        text = response.read()
        if response.status != http.client.OK:
            return None
        is_json = "json" in response.getheader("Content-Type", "")
        return json.loads(text) if is_json else text.decode(errors="replace")
    except http.client.HTTPException as error:
        raise ConnectionError(str(error)) from error
    finally:
        connection.close()


def answers(host: str, port: int, path: str, authorization: str | None = None) -> Callable[[datetime], bool]:
    """Return a probe that is true once a GET of the path, with the credentials if there are any, answers 200."""

    def probe(_started: datetime) -> bool:
        return fetch(host, port, path, authorization=authorization) is not None

    return probe


def worker_online(host: str, port: int, authorization: str | None = None) -> Callable[[datetime], bool]:
    """Return a probe that is true once every work pool has a worker whose heartbeat is newer than its start.

    Or that has given one since the probe began: the clock may have been set back after the start.
    """
    first_seen: dict[tuple[datetime, str], set[str]] = {}

    def probe(started: datetime) -> bool:
        for pool in WORK_POOLS:
            workers = fetch(host, port, f"/api/work_pools/{pool}/workers/filter", {}, authorization)
            if not isinstance(workers, list):
                return False
            heartbeats = {worker["last_heartbeat_time"] for worker in workers}
            given = heartbeats - first_seen.setdefault((started, pool), heartbeats)
            if not given and not any(datetime.fromisoformat(one).astimezone(UTC) >= started for one in heartbeats):
                return False
        return True

    return probe


def controller_leads(host: str, port: int, authorization: str | None = None) -> Callable[[datetime], bool]:
    """Return a probe that is true once the API sees that a controller leads, and that its loops run."""

    def probe(_started: datetime) -> bool:
        health = fetch(host, port, "/api/health", authorization=authorization)
        return isinstance(health, dict) and health["parts"]["controller"]["status"] == OK

    return probe


def with_secrets(settings: Settings) -> tuple[Settings, str | None]:
    """Return the settings with one more key, for `platform_services`, and that key; without keys there is none to add.

    It is made at every start, may only read, and never leaves this process: the API gets its hash, as of any other.
    So is the secret by which the services use Prefect and MLflow, unless it is given; they get it in their environment.
    """
    if settings.api_keys is None:
        return settings.model_copy(update={"services_secret": None}), None
    key, configured = new_key(PROBE_NAME, Scope.READ)
    secret = settings.services_secret or secrets.token_urlsafe(SECRET_BYTES)
    made = {"api_keys": f"{settings.api_keys},{configured}", "services_secret": secret}
    return settings.model_copy(update=made), key


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def platform_services(settings: Settings, probe_key: str | None = None) -> list[Service]:
    """Return the services of the whole platform; the API is probed with the key."""
    host, python = settings.keyless_connect_host, sys.executable
    bearer = None if probe_key is None else f"Bearer {probe_key}"
    login = None if settings.services_login is None else _basic(*settings.services_login)
    engine = Service(
        "engine", (python, "-m", "api.engine_server.server"), answers("127.0.0.1", settings.engine_port, "/health")
    )
    return [
        Service(
            "prefect",
            (python, "-m", "flows.prefect_server"),
            answers(host, settings.prefect_port, "/api/health"),
            stops_first=False,
        ),
        Service(
            "mlflow",
            (python, "-m", "registry.mlflow_server"),
            # Not /health: that answers before the tables exist.
            answers(host, settings.mlflow_port, "/api/2.0/mlflow/experiments/search?max_results=1", login),
            stops_first=False,
        ),
        Service(
            "worker",
            (python, "-m", "flows.worker"),
            worker_online(host, settings.prefect_port, login),
            orphan_signal="SIGTERM",  # its runs get time to write their checkpoints
            stop_seconds=12,
        ),
        # Another server may be in its place.
        *([engine] if settings.backend_url is None else []),
        Service(
            "controller",
            (python, "-m", "api.controller"),
            controller_leads(settings.connect_host, settings.api_port, bearer),
        ),
        Service(
            "api",
            (python, "-m", "api.server"),
            answers(settings.connect_host, settings.api_port, "/readyz"),
        ),
    ]
