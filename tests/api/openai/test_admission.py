"""More is asked for than the engine takes at once: it waits its turn, and is not refused."""

import asyncio
from urllib.parse import urlsplit

import pytest

from api.engine_server.schemas import EngineGenerateRequest
from api.generation import service
from api.generation.engine_client import EngineClient
from api.generation.service import Generations
from configs.keys import Scope, new_key
from tests.api.engine_server.conftest import EngineProcess

KEY, CONFIGURED = new_key("small", Scope.WRITE)
PROMPTS = [f"Count {number}" for number in range(24)]
ASKED = {"model": "tiny-llama", "max_tokens": 2, "temperature": 0}


@pytest.fixture(scope="module")
def engine_process(tiny_models_dir, data_dir):
    """One that runs one request at a time, and lets two wait."""
    engine = EngineProcess(
        tiny_models_dir, data_dir, LLM_PLATFORM_ENGINE_CONCURRENCY="1", LLM_PLATFORM_ENGINE_QUEUE_LENGTH="2"
    )
    yield engine
    engine.stop()


@pytest.fixture(scope="module")
def settings(settings, engine_process):
    changes = {"engine_port": urlsplit(engine_process.url).port, "generation_answers_per_key": 2}
    return settings.model_copy(update=changes | {"api_keys": str(CONFIGURED)})


@pytest.fixture(scope="module")
def small_share(client):
    client.headers["Authorization"] = f"Bearer {KEY}"
    client.post("/api/models", json={"name": "Tiny", "base_model": "tiny-llama"}).raise_for_status()


@pytest.mark.usefixtures("small_share")
@pytest.mark.parametrize("stream", [False, True])
def test_a_long_list_is_never_too_long_for_an_idle_engine(client, stream):
    answer = client.post("/v1/completions", json=ASKED | {"prompt": PROMPTS, "stream": stream})
    assert answer.status_code == 200, answer.text
    if not stream:
        assert len(answer.json()["choices"]) == len(PROMPTS)
    else:
        assert answer.text.count('"finish_reason": "length"') == len(PROMPTS)
    vectors = client.post("/v1/embeddings", json={"model": "tiny-llama", "input": PROMPTS})
    assert len(vectors.json()["data"]) == len(PROMPTS)


def test_who_waits_for_a_place_is_told_so_every_while(client, settings, engine_process, endless_llama_dir, monkeypatch):
    monkeypatch.setattr(service, "FIRST_IDLE_SECONDS", 0.05)
    monkeypatch.setattr(service, "IDLE_SECONDS", 0.1)
    endless = EngineGenerateRequest(weights=str(endless_llama_dir), prompt="a", max_new_tokens=100_000, ignore_eos=True)
    asked = endless.model_copy(update={"max_new_tokens": 3})

    async def work() -> list[service.Event]:
        async with EngineClient(engine_process.url) as engine:
            own = client.app.state.platform
            generations = Generations(settings, engine, own.generations.inputs, own.counters)
            before = generations.pieces([endless])
            while (await anext(before)) == service.IDLE:
                pass
            waiting, seen = generations.pieces([asked]), list[service.Event]()
            while seen.count(service.IDLE) < 3:
                seen.append(await anext(waiting))
            await before.aclose()
            return seen + [event async for event in waiting]

    events = asyncio.run(work())
    assert events[:3] == [service.IDLE] * 3
    assert [event for event in events if event != service.IDLE][-1][1]["generated_tokens"] == 3
