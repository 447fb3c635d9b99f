"""mlflow's AI gateway: a tracking server of its own passes requests on to the platform as to OpenAI."""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx
from mlflow.entities import GatewayEndpointModelConfig, GatewayModelLinkageType
from mlflow.tracking import get_tracking_uri, set_tracking_uri
from mlflow.tracking._tracking_service.utils import _get_store
from reporting import BASE_URL, KEY, MODEL, QUESTION, UNKNOWN, capability

PORT = os.environ["SPARE_PORT"]
START_SECONDS = 180
ASKED = {"role": "user", "content": QUESTION}
folder = Path.cwd()
SETTINGS = {
    # It keeps keys encrypted by this, and passes nothing on to an address within the machine unless told to.
    "MLFLOW_CRYPTO_KEK_PASSPHRASE": "a passphrase of the tests' own",
    "MLFLOW_GATEWAY_API_BASE_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_GATEWAY_API_BASE_ALLOWED_SCHEMES": "http,https",
}
command = [sys.executable, "-m", "mlflow", "server", "--port", PORT, "--workers", "1"]
command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder)]
with (folder / "mlflow.log").open("wb") as log:
    server = subprocess.Popen(command, env=os.environ | SETTINGS, stdout=log, stderr=log)
http = httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=300, trust_env=False)


def wait() -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if http.get("/health").is_success:
                return
        except httpx.TransportError:
            time.sleep(0.3)
    raise RuntimeError((folder / "mlflow.log").read_text()[-2000:])


def offer(name: str, model: str) -> None:
    """Make an endpoint of the gateway that passes on to this model of the platform."""
    store = _get_store()
    auth = {"api_base": BASE_URL}
    secret = store.create_gateway_secret(f"{name}-key", {"api_key": KEY}, provider="openai", auth_config=auth)
    definition = store.create_gateway_model_definition(f"{name}-model", secret.secret_id, "openai", model)
    linked = GatewayEndpointModelConfig(definition.model_definition_id, GatewayModelLinkageType.PRIMARY)
    store.create_gateway_endpoint(name, [linked], usage_tracking=False)


def ask(endpoint: str = "starter", **body) -> httpx.Response:
    asked = {"model": endpoint, "messages": [ASKED], "max_tokens": 30}
    return http.post("/gateway/mlflow/v1/chat/completions", json=asked | body)


try:
    wait()
    set_tracking_uri(f"http://127.0.0.1:{PORT}")
    assert get_tracking_uri().endswith(PORT)
    offer("starter", MODEL)
    offer("unknown", UNKNOWN)

    @capability("chat")
    def _():
        return ask().raise_for_status().json()["choices"][0]["message"]["content"]

    @capability("second turn")
    def _():
        answer = ask().raise_for_status().json()["choices"][0]["message"]
        messages = [ASKED, answer, {"role": "user", "content": "And in Rome?"}]
        return ask(messages=messages).raise_for_status().json()["choices"][0]["message"]["content"]

    @capability("stream")
    def _():
        lines = ask(stream=True).raise_for_status().text.splitlines()
        return sum(line.startswith("data:") for line in lines) > 1 and f"{len(lines)} lines"

    @capability("embeddings")
    def _():
        answer = http.post("/gateway/starter/mlflow/invocations", json={"input": ["A cat."]}).raise_for_status()
        return len(answer.json()["data"][0]["embedding"])

    @capability("errors")
    def _():
        answer = ask("unknown")
        assert answer.is_error
        assert f"There is no model named '{UNKNOWN}'" in answer.text, answer.text
        return answer.text
finally:
    server.terminate()
    server.wait(60)
