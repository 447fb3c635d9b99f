"""Preflight: each check fails with a sentence that names what is wrong and what to change."""

import os
import socket
from pathlib import Path

import pytest

from api.launcher.preflight import (
    PreflightError,
    check_disk,
    check_port,
    check_ports,
    check_python,
    check_writable,
)
from configs.settings import Settings


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def test_this_python_has_what_is_needed():
    check_python()


def test_a_port_in_use_names_port_purpose_holder_and_setting():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PreflightError) as caught:
            check_port("127.0.0.1", port, "MLflow", "LLM_PLATFORM_MLFLOW_PORT")
    sentence = str(caught.value)
    assert f"Port {port}, needed for MLflow, is in use" in sentence
    assert f"(process {os.getpid()})" in sentence
    assert "set LLM_PLATFORM_MLFLOW_PORT to a free port" in sentence


def test_a_free_port_passes():
    check_port("127.0.0.1", free_port(), "MLflow", "LLM_PLATFORM_MLFLOW_PORT")


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(PreflightError, match=r"can't be bound .* check LLM_PLATFORM_HOST"):
        check_port("203.0.113.1", free_port(), "Prefect", "LLM_PLATFORM_PREFECT_PORT")


def test_one_port_for_two_services_is_refused():
    port = free_port()
    settings = Settings(api_port=port, mlflow_port=port)
    with pytest.raises(PreflightError, match=f"Port {port} is given to both the API and MLflow"):
        check_ports(settings)


def test_too_little_disk_names_folder_amounts_and_setting(tmp_path: Path):
    check_disk(tmp_path, minimum_free_bytes=1)
    with pytest.raises(PreflightError, match=r"GiB free, but at least 1048576.0 GiB .* LLM_PLATFORM_DATA_DIR"):
        check_disk(tmp_path, minimum_free_bytes=1024**5)


def test_a_data_folder_that_can_not_be_written(tmp_path: Path):
    check_writable(tmp_path / "new")
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=r"can't be written .*LLM_PLATFORM_DATA_DIR"):
        check_writable(tmp_path / "file" / "data")
