"""What is not asked of a server in the engine's place, as it would answer something else."""

import asyncio

import pytest

from api.engine_server.schemas import EngineGenerateRequest
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
