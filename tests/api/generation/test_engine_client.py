"""The API's client against the engine's real process."""

import asyncio
import subprocess
import sys

import pytest

from api.engine_server.schemas import EngineEmbedRequest, EngineGenerateRequest
from api.generation.engine_client import EngineClient, EngineRefused, EngineUnavailable
from tests.api.engine_server.conftest import EngineProcess


@pytest.fixture
def request_body(tiny_llama_dir):
    return EngineGenerateRequest(
        weights=str(tiny_llama_dir), prompt="The future of", temperature=0, max_new_tokens=20, stop=["zzzz"]
    )


def run(url, work):
    async def main():
        async with EngineClient(url, timeout_seconds=30) as client:
            return await work(client)

    return asyncio.run(main())


def test_generate_and_stream_agree(engine_process, request_body):
    async def work(client):
        whole = await client.generate(request_body)
        events = [event async for event in client.stream(request_body)]
        return whole, events, await client.health()

    whole, events, health = run(engine_process.url, work)
    assert whole.text == "The future of" + whole.continuation
    assert "".join(event.get("text", "") for event in events) == whole.continuation
    assert events[-1]["done"] is True
    assert events[-1]["generated_tokens"] == whole.generated_tokens
    assert health.status == "ok"


def test_errors_keep_their_code(engine_process, request_body):
    async def work(client):
        request = request_body.model_copy(update={"max_length": 1, "max_new_tokens": None})
        with pytest.raises(EngineRefused) as refused:
            await client.generate(request)
        with pytest.raises(EngineRefused) as refused_stream:
            await anext(client.stream(request))
        return refused.value, refused_stream.value

    for error in run(engine_process.url, work):
        assert (error.status, error.code) == (422, "prompt_too_long")
        assert "max_length" in error.message


@pytest.fixture
def endless_request(request_body, endless_llama_dir):
    changes = {"weights": str(endless_llama_dir), "max_new_tokens": 100_000, "stop": []}
    return request_body.model_copy(update=changes)


def test_leaving_a_stream_cancels_the_generation(engine_process, endless_request):
    async def work(client):
        stream = client.stream(endless_request)
        await anext(stream)
        await stream.aclose()
        for _ in range(100):
            if (await client.health()).running == 0:
                return True
            await asyncio.sleep(0.01)
        return False

    assert run(engine_process.url, work)


def test_many_at_once_on_one_client(engine_process, request_body):
    async def work(client):
        return await asyncio.gather(*(client.generate(request_body) for _ in range(30)))

    answers = run(engine_process.url, work)
    assert len({answer.text for answer in answers}) == 1


def test_an_engine_that_is_not_running_is_unavailable(request_body):
    async def work(client):
        with pytest.raises(EngineUnavailable, match="not running"):
            await client.generate(request_body)
        with pytest.raises(EngineUnavailable, match="not running"):
            await anext(client.stream(request_body))
        with pytest.raises(EngineUnavailable, match="not running"):
            await client.health()

    run("http://127.0.0.1:9", work)


def test_an_engine_that_dies_in_the_middle_is_unavailable(tiny_models_dir, data_dir, endless_request):
    engine = EngineProcess(tiny_models_dir, data_dir)

    async def work(client):
        stream = client.stream(endless_request)
        await anext(stream)
        engine.process.kill()
        with pytest.raises(EngineUnavailable, match="in the middle"):
            async for _ in stream:
                pass

    run(engine.url, work)
    engine.process.wait(10)


def test_when_an_engine_dies_what_waited_in_line_goes_on(tiny_models_dir, data_dir, endless_request, request_body):
    """One place, taken: the request that has it is lost, the one behind it is answered by the engine's successor."""
    engine = EngineProcess(tiny_models_dir, data_dir, LLM_PLATFORM_ENGINE_CONCURRENCY="1")
    port = engine.url.rpartition(":")[2]

    async def work(client):
        stream = client.stream(endless_request)
        await anext(stream)
        in_line = asyncio.ensure_future(
            client.generate(request_body.model_copy(update={"weights": endless_request.weights}))
        )
        while not any(model["waiting"] for model in (await client.health()).models):
            await asyncio.sleep(0.01)
        engine.process.kill()
        engine.process.wait(10)
        with pytest.raises(EngineUnavailable, match="in the middle"):
            async for _ in stream:
                pass
        successor = await asyncio.to_thread(
            EngineProcess, tiny_models_dir, data_dir, LLM_PLATFORM_ENGINE_PORT=port, LLM_PLATFORM_ENGINE_CONCURRENCY="1"
        )
        try:
            return await in_line
        finally:
            successor.process.kill()
            successor.process.wait(10)

    assert run(engine.url, work).generated_tokens == request_body.max_new_tokens


def test_the_client_imports_no_torch():
    code = "import sys, api.generation.engine_client, api.engine_server.schemas; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_embedding_keeps_its_code_of_error_and_its_metrics(engine_process, tiny_llama_dir):
    text = EngineEmbedRequest(weights=str(tiny_llama_dir), prompt="The future of")

    async def work(client):
        before = await client.metrics()
        answer = await client.embed(text)
        with pytest.raises(EngineRefused) as refused:
            await client.embed(text.model_copy(update={"prompt": "word " * 500}))
        return before, answer, refused.value, await client.metrics()

    def read(metrics):
        return next(
            float(line.split()[1])
            for line in metrics.splitlines()
            if line.startswith("llm_engine_prompt_tokens_total ")
        )

    before, answer, refused, after = run(engine_process.url, work)
    assert len(answer.embedding) == 32
    assert read(after) - read(before) == answer.prompt_tokens
    assert (refused.status, refused.code) == (422, "prompt_too_long")
