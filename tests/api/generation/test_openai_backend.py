"""What is not asked of a server in the engine's place, as it would answer something else."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from api.engine_server.schemas import EngineGenerateRequest, EngineGenerateResponse
from api.generation.engine_client import EngineRefused
from api.generation.openai_backend import OpenAIBackend


def test_conversations_in_a_template_that_the_server_does_not_know_are_refused():
    request = EngineGenerateRequest(
        model="tiny",
        weights="/models/tiny",
        messages=[{"role": "user", "content": "Hello"}],
        chat_format={"chat_template": "plain", "chat_template_kwargs": None},
    )

    async def ask():
        backend = OpenAIBackend("http://127.0.0.1:9/v1", None)
        try:
            await backend.generate(request)
        finally:
            await backend.close()

    with pytest.raises(EngineRefused, match="a chat template here, which the backend") as refused:
        asyncio.run(ask())
    assert refused.value.status == 422


OPTIONS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"frequency_penalty": 0.5}, {"frequency_penalty": 0.5}),
    ({"presence_penalty": -1.5}, {"presence_penalty": -1.5}),
    ({"logit_bias": {7: -100.0}}, {"logit_bias": {"7": -100.0}}),
    ({"min_new_tokens": 3}, {"min_tokens": 3}),
    ({"stop_token_ids": [1, 2]}, {"stop_token_ids": [1, 2]}),
    ({"ignore_eos": True}, {"ignore_eos": True}),
    ({}, {}),
]


@pytest.fixture
def backend_server():
    """A server that speaks as much of OpenAI's protocol as a completion takes; yields its URL and what it was sent."""
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            usage = {"prompt_tokens": 1, "completion_tokens": 1}
            end = {"choices": [{"text": "x", "finish_reason": "stop"}], "usage": usage}
            content = f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n".encode()
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/v1", bodies
        server.shutdown()


def answer_of(url: str, **asked: Any) -> EngineGenerateResponse:
    async def ask() -> EngineGenerateResponse:
        backend = OpenAIBackend(url, None)
        try:
            return await backend.generate(EngineGenerateRequest(model="tiny", weights="/m", max_new_tokens=4, **asked))
        finally:
            await backend.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(("asked", "sent"), OPTIONS)
def test_what_shapes_an_answer_is_passed_on_and_nothing_that_is_off(backend_server, asked, sent):
    url, bodies = backend_server
    assert answer_of(url, prompt="a", **asked).continuation == "x"
    names = {name for _, each in OPTIONS for name in each}
    assert {name: value for name, value in bodies[0].items() if name in names} == sent


@pytest.mark.parametrize(
    ("asked", "named"), [({"prompt_logprobs": 1}, "prompt_logprobs"), ({"echo": True, "prompt_ids": [1, 2]}, "echo")]
)
def test_what_a_stream_does_not_carry_is_refused_by_name(backend_server, asked, named):
    url, bodies = backend_server
    with pytest.raises(EngineRefused, match=named) as refused:
        answer_of(url, **({"prompt": "a"} | asked if "prompt_ids" not in asked else asked))
    assert refused.value.status == 422
    assert bodies == []


def test_the_prompts_text_is_echoed_without_the_server(backend_server):
    url, bodies = backend_server
    answer = answer_of(url, prompt="a", echo=True)
    assert answer.prompt is not None
    assert (answer.prompt.text, answer.prompt.tokens, answer.continuation) == ("a", [], "x")
    assert "echo" not in bodies[0]
