"""semantic-kernel."""

import asyncio
from typing import Annotated, Literal

from openai import AsyncOpenAI
from pydantic import BaseModel
from reporting import BASE_URL, KEY, MODEL, QUESTION, UNKNOWN, WEATHER, capability, in_city, told
from semantic_kernel import Kernel
from semantic_kernel.connectors.ai import FunctionChoiceBehavior
from semantic_kernel.connectors.ai.open_ai import (
    OpenAIChatCompletion,
    OpenAIChatPromptExecutionSettings,
    OpenAITextEmbedding,
)
from semantic_kernel.contents import ChatHistory, FunctionCallContent
from semantic_kernel.exceptions import ServiceResponseException
from semantic_kernel.functions import kernel_function

called = []


class Place(BaseModel):
    city: Literal["Oslo", "Rome"]


class Weather:
    @kernel_function(description="Tell the weather of a city.")
    def weather(self, city: Annotated[str, "Oslo or Rome"]) -> str:
        called.append(city)
        return WEATHER


def service(name=MODEL):
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
    return OpenAIChatCompletion(ai_model_id=name, async_client=client)


def settings(**parts):
    return OpenAIChatPromptExecutionSettings(max_tokens=200, temperature=0, **parts)


def asked():
    history = ChatHistory(system_message="You are brief.")
    history.add_user_message(QUESTION)
    return history


@capability("chat")
async def _():
    return (await service().get_chat_message_content(asked(), settings())).content


@capability("second turn")
async def _():
    history = asked()
    history.add_message(await service().get_chat_message_content(history, settings()))
    history.add_user_message("And in Rome?")
    return (await service().get_chat_message_content(history, settings())).content


async def streamed(**parts):
    options = parts.pop("options", settings())
    return [piece async for piece in service().get_streaming_chat_message_content(asked(), options, **parts)]


@capability("stream")
async def _():
    return "".join(str(piece) for piece in await streamed())


@capability("usage in stream")
async def _():
    used = [piece.metadata.get("usage") for piece in await streamed() if piece.metadata.get("usage")]
    return used[-1].completion_tokens and used[-1]


def with_tool(**choice):
    kernel = Kernel()
    kernel.add_plugin(Weather(), "w")
    return {"kernel": kernel}, settings(function_choice_behavior=FunctionChoiceBehavior.Required(**choice))


@capability("tools")
async def _():
    called.clear()
    parts, options = with_tool(auto_invoke=True)
    options.function_choice_behavior.maximum_auto_invoke_attempts = 1
    await service().get_chat_message_content(asked(), options, **parts)
    return called and f"called for {called}"


@capability("tools streamed")
async def _():
    parts, options = with_tool(auto_invoke=False)
    pieces = await streamed(options=options, **parts)
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    call = next(item for item in whole.items if isinstance(item, FunctionCallContent))
    return call.name == "w-weather" and call.arguments


@capability("JSON schema")
async def _():
    answer = await service().get_chat_message_content(asked(), settings(response_format=Place))
    return in_city(answer.content)


@capability("embeddings")
async def _():
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
    return (await OpenAITextEmbedding(ai_model_id=MODEL, async_client=client).generate_embeddings(["A cat."])).shape


@capability("errors")
async def _():
    try:
        await service(UNKNOWN).get_chat_message_content(asked(), settings())
    except ServiceResponseException as error:
        return told(error)


@capability("parallel")
async def _():
    one = service()
    answers = await asyncio.gather(*(one.get_chat_message_content(asked(), settings()) for _ in range(4)))
    return all(answer.content for answer in answers) and f"{len(answers)} answers"
