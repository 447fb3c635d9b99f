"""Keys from a terminal: making one, using it, and what `up` and the API's process do about endpoints that have none."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

import pytest

from api.cli.program import run
from api.launcher.environment import platform_environment
from api.launcher.services import platform_services, with_secrets
from configs.keys import Scope, holder_of, new_key, parse_keys
from configs.settings import Settings

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
    assert (code, list(json.loads(printed))) == (0, ["models"])
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
    environment = platform_environment(STARTED, {"LLM_PLATFORM_API_KEY": KEY})
    assert parse_keys(environment["LLM_PLATFORM_API_KEYS"]) == STARTED.known_keys
    assert not [name for name, value in environment.items() if KEY in value or PROBE_KEY in value]
    assert with_secrets(Settings()) == (Settings(), None)


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
