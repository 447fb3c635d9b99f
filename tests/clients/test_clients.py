"""Real clients of OpenAI's and Anthropic's protocols, driven in environments of their own: `make test-clients`.

The table of docs/clients.md is what these tests find: `make test-clients` writes it.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.clients.conftest import STARTER
from tests.clients.environments import Client
from tests.e2e.platform_process import free_ports
from tests.tasks.models.page_table import PageTable

pytestmark = [pytest.mark.clients, pytest.mark.timeout(3600)]

PAGE = Path(__file__).parents[2] / "docs" / "clients.md"
HERE = Path(__file__).parent
DRIVER_SECONDS = 1800
CAPABILITIES = (
    "chat",
    "second turn",
    "stream",
    "usage in stream",
    "tools",
    "tools streamed",
    "JSON schema",
    "embeddings",
    "responses",
    "options",
    "errors",
    "parallel",
)
"""The columns of the table; a driver names no other."""
CLIENTS = (
    Client("openai", "openai", "openai"),
    Client("openai-node", "openai", "node"),
    Client("anthropic", "anthropic", "anthropic"),
    Client("langchain", "langchain-openai", "langchain"),
    Client("llama-index", "llama-index-llms-openai-like", "llama-index"),
    Client("litellm", "litellm", "litellm"),
    Client("instructor", "instructor", "instructor"),
    Client("pydantic-ai", "pydantic-ai-slim", "pydantic-ai"),
    Client("openai-agents", "openai-agents", "openai-agents"),
    Client("dspy", "dspy", "dspy"),
    Client("haystack", "haystack-ai", "haystack"),
    Client("semantic-kernel", "semantic-kernel", "semantic-kernel"),
    Client("smolagents", "smolagents", "smolagents"),
    Client("llm", "llm", "llm"),
    Client("aider", "aider-chat", "aider"),
    Client("ai-sdk-openai", "@ai-sdk/openai", "node"),
    Client("ai-sdk-compatible", "@ai-sdk/openai-compatible", "node"),
    Client("lm-eval", "lm_eval", "lm-eval"),
    Client("mlflow-gateway", "mlflow", None),
    Client("guidellm", "guidellm", "guidellm"),
)
ABSENT = "\N{EN DASH}"
"""What the client has no part for, or none that its driver drives."""


@pytest.fixture
def table(request):
    return PageTable(PAGE, "clients", write=request.config.getoption("--write-tables"))


def drive(client: Client, url: str, home: Path) -> dict[str, tuple[bool, str]]:
    """Run the client's driver and return what it told of each capability."""
    command = client.command()
    environment = {
        **os.environ,
        "BASE_URL": f"{url}/v1",
        "MODEL": STARTER,
        "MODEL_FOLDER": str(HERE.parents[1] / "data" / "models" / STARTER),
        "PYTHONPATH": str(HERE),
        "HOME": str(home),
        "SPARE_PORT": str(free_ports(1)[0]),
        "NO_PROXY": "127.0.0.1",
        # litellm, which others build on, looks on the internet for prices unless told not to.
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        command, env=environment, cwd=home, capture_output=True, text=True, timeout=DRIVER_SECONDS, check=False
    )
    print(done.stdout, done.stderr[-4000:])
    assert done.returncode == 0, done.stderr[-4000:]
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"capability"')]
    found = {one["capability"]: (one["ok"], one["said"]) for one in told}
    assert len(found) == len(told) > 0, "each capability is told once"
    assert set(found) <= set(CAPABILITIES)
    return found


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)
def test_a_client_works(client: Client, served, tmp_path, table):
    found = drive(client, served.url, tmp_path)
    failed = {capability: said for capability, (ok, said) in found.items() if not ok}
    assert not failed
    cells = ["yes" if capability in found else ABSENT for capability in CAPABILITIES]
    table.check([client.name, client.version(), *cells])


def test_the_table_has_each_client(table):
    table.keep([client.name for client in CLIENTS])
