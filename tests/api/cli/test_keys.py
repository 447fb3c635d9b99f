"""Keys from a terminal: making one, using it, and what `up` and the API's process do about endpoints that have none."""

import json
import os
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from api.cli.program import run
from api.launcher.environment import platform_environment
from api.launcher.services import platform_services, with_secrets
from configs.keys import Scope, holder_of, new_key, parse_keys
from configs.settings import Settings
from registry.database import Database
from registry.repositories.api_keys import ApiKeyRepository

KEY, CONFIGURED = new_key("person", Scope.READ)
STARTED, PROBE_KEY = with_secrets(Settings(api_keys=str(CONFIGURED)))


@pytest.fixture(scope="module")
def settings(settings):
    """Those that `up` hands to the API."""
    return settings.model_copy(update={"api_keys": STARTED.api_keys})


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """Settings of a platform that is not to start: if no other check stops it, the last does."""
    monkeypatch.setenv("LLM_PLATFORM_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("LLM_PLATFORM_API_PORT", "4201")
    monkeypatch.setenv("LLM_PLATFORM_MLFLOW_PORT", "4201")


def test_a_command_sends_the_key_of_its_environment(command, monkeypatch):
    monkeypatch.setenv("LLM_PLATFORM_API_KEY", f"{KEY}\n")
    code, printed, _ = command("models", "--json")
    assert (code, list(json.loads(printed))) == (0, ["models", "next_after"])
    code, _, error = command("train", "1")
    assert (code, error) == (4, "error: The key person has the scope read, but this needs write.\n")
    monkeypatch.setenv("LLM_PLATFORM_API_KEY", "a key")
    code, _, error = command("models")
    assert code == 2
    assert error.startswith("error: LLM_PLATFORM_API_KEY is no key")
    monkeypatch.delenv("LLM_PLATFORM_API_KEY")
    code, _, error = command("models")
    assert code == 4
    assert error.startswith("error: A key is required")


def test_a_new_key_and_its_entry(capsys):
    assert run(["keys", "new", "--name", "ci", "--scope", "write"]) == 0
    key, line = capsys.readouterr().out.splitlines()
    variable, _, entry = line.partition("=")
    (configured,) = parse_keys(entry)
    assert (variable, configured.name, configured.scope) == ("LLM_PLATFORM_API_KEYS", "ci", Scope.WRITE)
    assert holder_of([configured], key.encode()) == configured
    assert run(["keys", "new", "--name", "ci", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    (configured,) = parse_keys(printed["entry"])
    assert configured.scope is Scope.READ
    assert holder_of([configured], printed["key"].encode()) == configured


def test_keys_of_a_running_platform(settings, command, answer, monkeypatch, url):
    admin, configured = new_key("boss", Scope.ADMIN)
    monkeypatch.setenv("LLM_PLATFORM_API_KEY", KEY)
    code, _, error = command("keys", "list")
    assert (code, error) == (4, "error: The key person has the scope read, but this needs admin.\n")
    # As another process of the platform would have made it.
    with closing(Database(settings.platform_database_url)) as database, database.transaction() as session:
        ApiKeyRepository(session).add(configured)
    monkeypatch.setenv("LLM_PLATFORM_API_KEY", admin)
    wait_until(lambda: command("keys", "list")[0] == 0)
    code, printed, _ = command("keys", "add", "--name", "ci", "--scope", "write")
    assert code == 0
    monkeypatch.setenv("LLM_PLATFORM_API_KEY", printed.strip())
    assert answer("models")["models"]
    monkeypatch.setenv("LLM_PLATFORM_API_KEY", admin)
    ids = {key["name"]: key["id"] for key in answer("keys", "list")["keys"]}
    assert set(ids) == {"person", "up", "boss", "ci"}
    code, printed, _ = command("keys", "revoke", ids["ci"])
    assert (code, printed) == (0, f"Key {ids['ci']} (ci) is revoked.\n")
    code, printed, _ = command("keys", "list")
    assert {"ci", "write", "api", "settings", "-"} <= set(printed.split())
    code, _, error = command("keys", "revoke", "../models")
    assert code == 4
    assert error.startswith("error: There is no")


def wait_until(condition):
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "words"), [(["--name", "a:b"], "--name is 'a:b'"), (["--name", "a", "--scope", "root"], "'root'")]
)
def test_what_is_no_name_or_scope_is_refused(capsys, arguments, words):
    assert run(["keys", "new", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_up_asks_whether_a_controller_leads_with_a_key_of_its_own(url, settings):
    served = settings.model_copy(update={"api_port": urlsplit(url).port})
    with_key, without = (platform_services(served, key)[-2] for key in (PROBE_KEY, None))
    assert (with_key.name, without.name) == ("controller", "controller")
    deadline = time.monotonic() + 30
    while not with_key.ready(datetime.now(UTC)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not without.ready(datetime.now(UTC))
    api = platform_services(served)[-1]
    assert api.name == "api"
    assert api.ready(datetime.now(UTC))  # whether a process can serve is asked without a key
    probe = holder_of(STARTED.known_keys, PROBE_KEY.encode())
    assert (probe.name, probe.scope) == ("up", Scope.READ)


def test_no_part_gets_a_key_in_clear_text():
    environment = platform_environment(STARTED, {"LLM_PLATFORM_API_KEY": KEY, "MLFLOW_TRACKING_TOKEN": KEY})
    assert parse_keys(environment["LLM_PLATFORM_API_KEYS"]) == STARTED.known_keys
    assert not [name for name, value in environment.items() if KEY in value or PROBE_KEY in value]
    assert with_secrets(Settings()) == (Settings(), None)
    # The services' own secret is made anew at every start, and only where there are keys.
    assert environment["LLM_PLATFORM_SERVICES_SECRET"] == STARTED.services_secret
    assert environment["PREFECT_API_AUTH_STRING"] == f"platform:{STARTED.services_secret}"
    assert environment["MLFLOW_TRACKING_PASSWORD"] == STARTED.services_secret
    assert with_secrets(Settings(api_keys=str(CONFIGURED)))[0].services_secret != STARTED.services_secret
    assert not {"PREFECT_API_AUTH_STRING", "MLFLOW_TRACKING_PASSWORD"} & set(platform_environment(Settings(), {}))


def test_up_refuses_a_endpoint_without_keys_beyond_loopback(capsys, nowhere, monkeypatch):
    def refusal(*options):
        assert run(["up", *options]) == 1
        return capsys.readouterr().err

    open_endpoint = "Can't start: The API would be open to anybody at '0.0.0.0': make a key by `llm-platform keys new`"
    stopped_by_the_next_check = "Can't start: Port 4201 is given to both the API and MLflow"
    assert refusal("--host", "0.0.0.0").startswith(open_endpoint)
    assert refusal("--host", "0.0.0.0", "--force-open").startswith(stopped_by_the_next_check)
    assert refusal("--host", "127.0.0.1").startswith(stopped_by_the_next_check)
    monkeypatch.setenv("LLM_PLATFORM_API_KEYS", str(CONFIGURED))
    assert refusal("--host", "0.0.0.0").startswith(stopped_by_the_next_check)
    monkeypatch.setenv("LLM_PLATFORM_API_KEYS", KEY)
    refused = refusal()
    assert "LLM_PLATFORM_API_KEYS is not valid: entry 1 is not NAME:SCOPE:SHA256" in refused
    assert KEY not in refused


def test_the_apis_process_refuses_it_too(nowhere):
    environment = os.environ | {"LLM_PLATFORM_HOST": "0.0.0.0"}
    ended = subprocess.run(
        [sys.executable, "-m", "api.server"],
        env=environment,
        cwd=os.environ["LLM_PLATFORM_DATA_DIR"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("Can't start: The API would be open to anybody at '0.0.0.0'")
