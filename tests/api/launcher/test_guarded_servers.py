"""Prefect's and MLflow's servers as the platform starts them, with keys: who gets in, and that our clients do."""

import asyncio
import os
import subprocess
import time
from datetime import UTC, datetime

import httpx
import pytest
from prefect.client.orchestration import PrefectClient
from prefect.events import Event
from prefect.events.clients import PrefectEventsClient
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from api.launcher.environment import platform_environment
from api.launcher.services import platform_services, with_secrets
from api.orchestration.prefect_client import Orchestrator
from configs.keys import Scope, new_key
from configs.settings import Settings
from registry.champions import Champions
from registry.database import Database, upgrade
from registry.repositories.api_keys import ApiKeyRepository
from tests.e2e.platform_process import free_ports

MADE = {scope: new_key(f"a-{scope}-key", scope) for scope in Scope}
ADMIN = MADE[Scope.ADMIN][0]
PREFECT = Subprotocol("prefect")
START_SECONDS = 150
HONOURED_SECONDS = 20.0


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    api, prefect, mlflow, engine = free_ports(4)
    keys = ",".join(str(configured) for _, configured in MADE.values())
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("data"),
        api_keys=keys,
        api_port=api,
        prefect_port=prefect,
        mlflow_port=mlflow,
        engine_port=engine,
    )
    upgrade(settings.platform_database_url)
    return with_secrets(settings)[0]


@pytest.fixture(scope="module", autouse=True)
def servers(settings):
    """Both servers, each ready by the probe with which `up` asks it."""
    environment = platform_environment(settings, os.environ)
    services = [service for service in platform_services(settings) if service.name in ("prefect", "mlflow")]
    started = datetime.now(UTC)
    processes = [
        subprocess.Popen(service.command, env=environment, cwd=settings.data_dir, stderr=subprocess.PIPE)
        for service in services
    ]
    deadline = time.monotonic() + START_SECONDS
    for service, process in zip(services, processes, strict=True):
        while not _ready(service, started):
            assert process.poll() is None, process.stderr.read().decode()
            assert time.monotonic() < deadline, service.name
            time.sleep(0.2)
    yield
    for process in processes:
        process.terminate()
    for process in processes:
        process.communicate(timeout=30)


def _ready(service, started):
    try:
        return service.ready(started)
    except OSError:
        return False


def asks(settings, service):
    """Return a request that changes something, as the server's own page makes it."""
    if service == "prefect":
        return f"{settings.prefect_api_url}/flows/", {"name": "by-hand"}
    return f"{settings.mlflow_url}/api/2.0/mlflow/experiments/create", {"name": f"by-hand-{time.monotonic_ns()}"}


@pytest.mark.parametrize("service", ["prefect", "mlflow"])
@pytest.mark.parametrize(
    ("options", "status"),
    [
        ({}, 401),
        ({"auth": ("platform", "guessed")}, 401),
        ({"auth": ("admin", MADE[Scope.WRITE][0])}, 401),
        ({"auth": ("admin", ADMIN)}, None),
        ({"headers": {"Authorization": f"Bearer {ADMIN}"}}, None),
        ({"auth": ("admin", ADMIN), "headers": {"Host": "evil.example"}}, 400),
        ({"auth": ("admin", ADMIN), "headers": {"Origin": "https://evil.example"}}, 403),
        ({"auth": ("admin", ADMIN), "headers": {"Origin": "http://localhost:1"}}, 403),
        ({"auth": ("admin", ADMIN), "headers": {"Origin": "null"}}, 403),
        ({"auth": ("admin", ADMIN), "headers": {"Sec-Fetch-Site": "same-site"}}, 403),
    ],
)
def test_who_may_change_something(settings, service, options, status):
    url, body = asks(settings, service)
    answer = httpx.post(url, json=body, timeout=60, **options)
    assert answer.is_success if status is None else answer.status_code == status, answer.text


@pytest.mark.parametrize("service", ["prefect", "mlflow"])
def test_the_servers_page_may_call_its_server_by_any_of_our_names(settings, service):
    url, body = asks(settings, service)
    port = settings.prefect_port if service == "prefect" else settings.mlflow_port
    for name in ("localhost", "127.0.0.1", "[::1]"):
        headers = {"Origin": f"http://{name}:{port}", "Sec-Fetch-Site": "cross-site"}
        answer = httpx.post(url, json=body, headers=headers, auth=("x", ADMIN), timeout=60)
        assert answer.status_code in (200, 201, 400), answer.text  # 400: the experiment's name is taken
        assert "pages of other sites" not in answer.text


@pytest.mark.parametrize("path", ["/", "/health", "/version", "/ajax-api/2.0/mlflow/experiments/search", "/graphql"])
def test_nothing_of_mlflow_is_open(settings, path):
    assert httpx.get(f"{settings.mlflow_url}{path}", timeout=60).status_code == 401
    foreign = {"Host": "evil.example"}
    assert httpx.get(f"{settings.mlflow_url}{path}", headers=foreign, timeout=60).status_code == 400


def test_prefects_page_is_open_and_shows_its_login(settings):
    root = settings.prefect_api_url.removesuffix("/api")
    assert httpx.get(f"{root}/ui-settings", timeout=60).json()["auth"] == "BASIC"
    assert httpx.get(f"{root}/", timeout=60, headers={"Host": "evil.example"}).status_code == 400
    for path in ("/flows/count", "/admin/settings", "/events/filter"):
        assert httpx.post(f"{root}/api{path}", json={}, timeout=60).status_code in (401, 405)


def test_our_clients_get_in(settings):
    async def ask_prefect():
        orchestrator = Orchestrator(settings.prefect_api_url, settings.services_login)
        assert await orchestrator.flow_runs([]) == []
        await orchestrator.close()

    asyncio.run(ask_prefect())
    assert Champions(settings.mlflow_url, settings.services_login).of("nobody") is None
    with pytest.raises(httpx.HTTPStatusError):
        Champions(settings.mlflow_url).of("nobody")


@pytest.mark.parametrize("login", ["secret", "key"])
def test_prefects_own_client_gets_in_by_http_and_by_websocket(settings, login):
    auth = f"me:{ADMIN}" if login == "key" else "{}:{}".format(*settings.services_login)

    async def emit():
        async with PrefectClient(settings.prefect_api_url, auth_string=auth) as client:
            assert await client.read_flow_runs() == []
        async with PrefectEventsClient(settings.prefect_api_url, reconnection_attempts=0) as events:
            await events.emit(Event(event=f"by-{login}", resource={"prefect.resource.id": "a-test"}))

    with temporary_settings({PREFECT_API_URL: settings.prefect_api_url, PREFECT_API_AUTH_STRING: auth}):
        asyncio.run(emit())
    deadline = time.monotonic() + 60
    body = {"filter": {"event": {"name": [f"by-{login}"]}}}
    url = f"{settings.prefect_api_url}/events/filter"
    while not httpx.post(url, json=body, auth=("x", ADMIN), timeout=60).raise_for_status().json()["events"]:
        assert time.monotonic() < deadline
        time.sleep(0.5)


PREFECT = Subprotocol("prefect")


@pytest.mark.parametrize("origin", ["https://evil.example", "http://localhost:1", "null"])
def test_another_sites_page_opens_no_websocket(settings, origin):
    url = f"{settings.prefect_api_url}/events/in".replace("http://", "ws://")
    with connect(url, subprotocols=[PREFECT]):
        pass
    with connect(url, subprotocols=[PREFECT], origin=Origin(f"http://localhost:{settings.prefect_port}")):
        pass
    with pytest.raises(Exception, match="403"):
        connect(url, subprotocols=[PREFECT], origin=Origin(origin))
    with pytest.raises(Exception, match="403"):
        connect(url, subprotocols=[PREFECT], additional_headers={"Host": "evil.example"})


@pytest.mark.parametrize("service", ["prefect", "mlflow"])
def test_a_key_that_was_made_later_gets_in_until_it_is_revoked(settings, service):
    key, made = new_key(f"later-for-{service}", Scope.ADMIN)
    url, body = asks(settings, service)
    database = Database(settings.platform_database_url)
    for change, wanted in ((ApiKeyRepository.add, True), (lambda keys, one: keys.revoke(one, None), False)):
        with database.transaction() as session:
            change(ApiKeyRepository(session), made)
        deadline = time.monotonic() + HONOURED_SECONDS
        refused = not wanted
        while (httpx.post(url, json=body, auth=("x", key), timeout=60).status_code == 401) != refused:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    database.close()


def test_no_secret_is_on_a_command_line_or_in_a_configuration(settings):
    for service in platform_services(settings):
        assert settings.services_secret not in " ".join(service.command)


@pytest.mark.parametrize("module", ["flows.prefect_server", "registry.mlflow_server"])
def test_a_server_without_the_secret_does_not_start_open(settings, module):
    environment = platform_environment(settings.model_copy(update={"services_secret": None}), os.environ)
    command = [platform_services(settings)[0].command[0], "-m", module]
    ended = subprocess.run(
        command, env=environment, cwd=settings.data_dir, capture_output=True, timeout=120, check=False
    )
    assert ended.returncode == 1
    assert b"LLM_PLATFORM_SERVICES_SECRET" in ended.stderr
