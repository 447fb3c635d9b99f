"""What the endpoints of messages do."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any
from uuid import uuid4

from fastapi import Response
from fastapi.responses import JSONResponse

from api.anthropic_errors import MESSAGES_PATH
from api.generation import conversation
from api.generation.sse import event
from api.platform import Platform
from api.routes.anthropic.output import Event, MessageWriter
from api.routes.anthropic.request import chat_request
from api.routes.anthropic.schemas import CountRequest, MessagesRequest, TokenCount
from api.routes.openai.chat import ask_chat, tool_headers
from api.routes.openai.chat_request import prompt_tokens
from api.routes.openai.sse import stream


async def create_message(platform: Platform, body: MessagesRequest) -> Response:
    """Return the message, or a stream of its events; raises what is wrong with the request, and engine errors."""
    chat = chat_request(body)
    asked = await ask_chat(platform, "msg", chat)
    headers = await tool_headers(platform, asked)
    writer = MessageWriter(f"msg_{uuid4().hex}", body.model)
    said = conversation.pieces(platform.generations, asked.requests, chat.offered_names)
    if body.stream:
        response = await stream(_lines(said, writer), _failed, MESSAGES_PATH)
        response.headers.update(headers)
        return response
    async with aclosing(said):
        async for one in said:
            if one is not None:
                writer.push(one)
    return JSONResponse(writer.message, headers=headers)


async def count_tokens(platform: Platform, body: CountRequest) -> TokenCount:
    """Return how many tokens a prompt has; raises as `create_message`."""
    return TokenCount(input_tokens=await prompt_tokens(platform, chat_request(body)))


async def _lines(
    said: AsyncGenerator[conversation.Said | None, None], writer: MessageWriter
) -> AsyncGenerator[bytes, None]:
    begun = False
    async with aclosing(said):
        async for one in said:
            events: list[Event] = []
            if one is None:
                # How many tokens the prompt has is part of the first event that clients read.
                events.append({"type": "ping"})
            elif not begun:
                begun = True
                events += writer.begin(one.prompt_tokens or 0)
            if one is not None:
                events += writer.push(one)
            for told in events:
                yield event(told, told["type"])


def _failed(error: dict[str, Any]) -> bytes:
    return event(error, "error")
