"""Servers that benches talk to, each in a process of its own: ours and llama.cpp's."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

MODEL = Path("data/models/HuggingFaceTB/SmolLM2-135M-Instruct")


@dataclass(frozen=True)
class Server:
    """A command to start, the port that it will listen on, and the path that answers 200 when it is ready."""

    command: list[str]
    port: int
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str = "/health"


@contextmanager
def running(server: Server) -> Iterator[str]:
    """Yield the server's base URL once it is ready; end its process afterwards."""
    url = f"http://127.0.0.1:{server.port}"
    process = subprocess.Popen(
        server.command, env=os.environ | server.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        while not _is_ready(url + server.ready):
            if process.poll() is not None:
                raise RuntimeError(f"{' '.join(server.command)} ended with status {process.returncode}")
            time.sleep(0.1)
        yield url
    finally:
        process.terminate()
        process.wait()


def own_engine(*, int8: bool = False) -> Server:
    """Our engine's process."""
    port = free_port()
    environment = {
        "LLM_PLATFORM_ENGINE_PORT": str(port),
        "LLM_PLATFORM_LOCAL_MODELS_DIR": str(MODEL.resolve().parents[1]),
        "LLM_PLATFORM_COMPUTE_DTYPE": "bfloat16",
        "LLM_PLATFORM_ENGINE_INT8": str(int8).lower(),
    }
    return Server([sys.executable, "-m", "api.engine_server.server"], port, environment)


def own_api(engine: Server, data: Path) -> Server:
    """Our API's process in front of the engine, with an empty database in `data`."""
    port = free_port()
    environment = {
        **engine.environment,
        "LLM_PLATFORM_API_PORT": str(port),
        "LLM_PLATFORM_DATA_DIR": str(data),
        "LLM_PLATFORM_ALLOW_HUB": "false",
    }
    return Server([sys.executable, "-m", "api.server"], port, environment, ready="/api/models")


def llama_cpp(server: str, gguf: str) -> Server:
    """llama.cpp's server with places for 32 texts of 256 tokens."""
    port = free_port()
    places = ["-np", "32", "-c", str(32 * 256), "-t", "2", "-tb", "2"]
    return Server([server, "-m", gguf, "--port", str(port), *places], port)


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
