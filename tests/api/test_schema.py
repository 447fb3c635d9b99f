"""Requests made from our OpenAPI document, right and wrong ones, get the documented answers."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from tests.clients.served import Served
from tests.e2e.platform_process import free_ports

CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
EXAMPLES_PER_OPERATION = 40
EXAMPLES_OF_THOUSANDS = 150
# No schema can say which bytes are a data set, and each of these starts a process: `test_datasets.py` and
# `test_openai_files.py` ask them.
TESTED_ELSEWHERE = ("POST /api/datasets", "GET /api/datasets/{dataset_id}/preview", "POST /v1/files")


@pytest.fixture(scope="module")
def server(tmp_path_factory, tiny_models_dir):
    """The API's own process; the other parts are not there, which is one of the documented answers."""
    ports = dict(zip(("API", "PREFECT", "MLFLOW", "ENGINE"), free_ports(4), strict=True))
    environment = {
        "LLM_PLATFORM_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "LLM_PLATFORM_LOCAL_MODELS_DIR": str(tiny_models_dir),
        "LLM_PLATFORM_ALLOW_HUB": "false",
        "LLM_PLATFORM_TRAINING_MEMORY_GB": "1000000",  # what fits is no matter of the schema
        **{f"LLM_PLATFORM_{part}_PORT": str(port) for part, port in ports.items()},
    }
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", "api.server"], env=environment)
    url = f"http://localhost:{ports['API']}/api"
    while True:
        try:
            httpx.get(f"{url}/health")
            break
        except httpx.TransportError:
            assert process.poll() is None
            assert time.monotonic() - started < 60
            time.sleep(0.1)
    httpx.post(f"{url}/models", json={"name": "Tiny", "base_model": "tiny-llama"}).raise_for_status()
    yield url
    process.terminate()
    process.wait(20)


@pytest.mark.timeout(900)
def test_every_answer_is_as_documented(server):
    run(server, EXAMPLES_PER_OPERATION)


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_every_one_of_thousands_of_answers_is_as_documented(tiny_models_dir, tmp_path):
    """With an engine that answers, more than 10,000 requests."""
    served = Served(tiny_models_dir, tmp_path, training_memory_gb="1000000")
    try:
        httpx.post(f"{served.url}/api/models", json={"name": "Tiny", "base_model": "tiny-llama"}).raise_for_status()
        run(f"{served.url}/api", EXAMPLES_OF_THOUSANDS)
    finally:
        served.stop()


def run(server, examples):
    """Fail unless schemathesis finds nothing in so many requests of each operation, besides those it always makes."""
    command = [
        str(Path(sys.executable).with_name("schemathesis")),
        "--config-file",
        str(CONFIGURATION),
        "run",
        f"{server}/openapi.json",
        "--checks",
        "all",
        # The same requests every time: a test that fails now and then, on another day's input, helps nobody.
        "--generation-deterministic",
        "--workers",
        "1",
        # On a busy machine an answer may take long; how long is no matter of the schema.
        "--request-timeout",
        "120",
        "--max-response-time",
        "120",
        "--max-examples",
        str(examples),
        "--no-color",
        *(option for operation in TESTED_ELSEWHERE for option in ("--exclude-name", operation)),
    ]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    print(found.stdout[-2000:])
    assert found.returncode == 0, found.stdout[-20_000:]
