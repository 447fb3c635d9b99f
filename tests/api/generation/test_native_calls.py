"""Calls that a server in the engine's place makes by itself, over HTTP: what it is asked, and what it answers."""

import asyncio
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from api.engine_server.schemas import CallRequirement, EngineGenerateRequest
from api.generation.engine_client import EngineRefused
from api.generation.openai_backend import OpenAIBackend

LOOK = {"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}
DELTAS = [
    {"reasoning_content": "Hm."},
    {"tool_calls": [{"index": 0, "id": "call_a", "type": "function", "function": {"name": "look", "arguments": ""}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": '{"at"'}}]},
    {"tool_calls": [{"index": 0, "function": {"arguments": ": 1}"}}]},
]


@pytest.fixture
def server():
    """A server that speaks OpenAI's protocol and always calls; it refuses `auto`, as vLLM does by default."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            if body["tool_choice"] == "auto":
                content = json.dumps({"error": {"message": "auto needs --enable-auto-tool-choice"}}).encode()
                self.send_response(400)
            else:
                choices = [{"index": 0, "delta": delta, "finish_reason": None} for delta in DELTAS]
                choices.append({"index": 0, "delta": {}, "finish_reason": "tool_calls"})
                events: list[Any] = [{"choices": [choice]} for choice in choices]
                events.append({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 5}})
                lines = [f"data: {json.dumps(event)}\n\n" for event in events]
                content = ("".join(lines) + "data: [DONE]\n\n").encode()
                self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=http.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{http.server_port}/v1", asked
    http.shutdown()
    http.server_close()


def generated(url, calls):
    request = EngineGenerateRequest(
        model="tiny",
        weights="/models/tiny",
        messages=[{"role": "user", "content": "Where?"}],
        tools=[LOOK],
        max_new_tokens=9,
        calls=calls,
    )

    async def ask():
        backend = OpenAIBackend(url, None)
        try:
            return await backend.generate(request)
        finally:
            await backend.close()

    return asyncio.run(ask())


@pytest.mark.parametrize(
    ("calls", "choice"),
    [
        (CallRequirement(required=True), "required"),
        (CallRequirement(required=True, name="look"), {"type": "function", "function": {"name": "look"}}),
        (None, "none"),
    ],
)
def test_what_is_asked_and_answered(server, calls, choice):
    url, asked = server
    answer = generated(url, calls)
    assert asked[0]["tool_choice"] == choice
    assert asked[0]["tools"] == [LOOK]
    assert answer.reasoning == "Hm."
    assert answer.finish_reason == "stop"
    assert "".join(piece["function"]["arguments"] for piece in answer.calls) == '{"at": 1}'


def test_what_the_server_refuses_is_refused_by_name(server):
    url, asked = server
    with pytest.raises(EngineRefused, match="enable-auto-tool-choice"):
        generated(url, CallRequirement(strict=["look"], parallel=False))
    assert asked[0]["tools"][0]["function"]["strict"] is True
    assert asked[0]["parallel_tool_calls"] is False
