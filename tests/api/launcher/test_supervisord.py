"""The supervisor's configuration and what is read from its log; the environment that services get."""

import configparser
from pathlib import Path

from api.launcher.environment import platform_environment
from api.launcher.services import Service, platform_services
from api.launcher.supervisord import Exited, GaveUp, Spawned, configuration, read_events
from configs.keys import Scope, new_key
from configs.settings import Settings


def parsed(services: list[Service], run_dir: Path, logs_dir: Path) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(configuration(services, run_dir, logs_dir))
    return parser


def test_every_service_is_a_program_with_restart_and_rotated_log(tmp_path: Path):
    services = platform_services(Settings(data_dir=tmp_path))
    parser = parsed(services, tmp_path / "run", tmp_path / "logs")
    assert [service.name for service in services] == ["prefect", "mlflow", "worker", "engine", "controller", "api"]
    for service in services:
        section = parser[f"program:{service.name}"]
        assert section["autorestart"] == "true"
        assert section["stdout_logfile"] == str(tmp_path / "logs" / f"{service.name}.log")
        assert int(section["stdout_logfile_maxbytes"]) > 0
        assert service.command[-1] in section["command"]
    assert parser["group:users"]["programs"] == "worker,engine,controller,api"
    assert parser["group:used"]["programs"] == "prefect,mlflow"
    assert int(parser["group:users"]["priority"]) > int(parser["group:used"]["priority"])


def test_percent_and_space_in_a_path_survive(tmp_path: Path):
    service = Service("one", ("/bin/my python", "100%"), lambda _started: True)
    section = parsed([service], tmp_path, tmp_path / "50% logs")["program:one"]
    assert section["stdout_logfile"] == str(tmp_path / "50%% logs" / "one.log")
    assert section["command"].endswith("-- '/bin/my python' 100%%")


def test_log_lines_become_events():
    lines = [
        "2026-01-01 00:00:00,000 INFO spawned: 'api' with pid 123",
        "2026-01-01 00:00:00,000 WARN exited: api (exit status 1; not expected)",
        "2026-01-01 00:00:00,000 WARN exited: api (terminated by SIGKILL; not expected)",
        "2026-01-01 00:00:00,000 INFO exited: api (exit status 0; expected)",
        "2026-01-01 00:00:00,000 INFO gave up: api entered FATAL state, too many start retries too quickly",
        "2026-01-01 00:00:00,000 INFO stopped: api (exit status 0)",
    ]
    assert list(read_events(iter(lines))) == [
        Spawned("api", 123),
        Exited("api", "exit code 1"),
        Exited("api", "killed by SIGKILL"),
        Exited("api", "exit code 0"),
        GaveUp("api"),
    ]


def test_the_environment_carries_settings_and_points_prefect_and_mlflow_at_ours(tmp_path: Path):
    settings = Settings(data_dir=tmp_path, prefect_port=4999, mlflow_port=5999, allow_hub=False)
    inherited = {"PATH": "/bin", "PREFECT_PROFILE": "cloud", "MLFLOW_TRACKING_URI": "http://elsewhere"}
    environment = platform_environment(settings, inherited)
    assert environment["PATH"] == "/bin"
    assert "PREFECT_PROFILE" not in environment
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4999/api"
    assert environment["PREFECT_HOME"] == str(tmp_path / "prefect")
    assert environment["PREFECT_SERVER_SERVICES_PAUSE_EXPIRATIONS_ENABLED"] == "false"
    assert environment["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5999"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert environment["_MLFLOW_SERVER_FILE_STORE"] == f"sqlite:///{tmp_path}/mlflow.db"
    assert "PREFECT_API_DATABASE_CONNECTION_URL" not in environment


def test_services_read_the_same_settings_from_that_environment(tmp_path: Path, monkeypatch):
    settings = Settings(data_dir=tmp_path, allow_hub=False, database_url="postgresql+psycopg://u:p%40@h/db")
    for name, value in platform_environment(settings, {}).items():
        if name.startswith("LLM_PLATFORM_"):
            monkeypatch.setenv(name, value)
    assert Settings() == settings


def test_a_database_for_prefect_and_a_wildcard_host(tmp_path: Path):
    settings = Settings(
        data_dir=tmp_path,
        host="0.0.0.0",
        force_open=True,
        prefect_database_url="postgresql+asyncpg://localhost/prefect",
    )
    environment = platform_environment(settings, {})
    assert environment["PREFECT_API_DATABASE_CONNECTION_URL"] == "postgresql+asyncpg://localhost/prefect"
    assert environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert environment["PREFECT_UI_API_URL"] == "/api"


def test_with_keys_only_the_api_leaves_loopback(tmp_path: Path):
    _, configured = new_key("ci", Scope.READ)
    settings = Settings(data_dir=tmp_path, host="0.0.0.0", api_keys=str(configured))
    assert settings.keyless_host == "127.0.0.1"  # what Prefect's and MLflow's servers bind to
    environment = platform_environment(settings, {})
    assert environment["LLM_PLATFORM_HOST"] == "0.0.0.0"
    assert environment["PREFECT_UI_API_URL"] == environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
