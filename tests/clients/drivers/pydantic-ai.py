"""pydantic-ai."""

import asyncio
from typing import Literal

from openai import AsyncOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent, Embedder, NativeOutput, ToolOutput
from pydantic_ai.exceptions import ModelHTTPError
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.usage import UsageLimits
from reporting import BASE_URL, KEY, MODEL, QUESTION, UNKNOWN, WEATHER, capability, told

called = []


class Place(BaseModel):
    """A city."""

    city: Literal["Oslo", "Rome"]


def provider():
    return OpenAIProvider(openai_client=AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0))


def agent(kind=OpenAIChatModel, name=MODEL, **parts):
    return Agent(kind(name, provider=provider()), model_settings={"max_tokens": 60}, **parts)


def weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tell the weather of a city."""
    called.append(city)
    return WEATHER


@capability("chat")
async def _():
    return (await agent().run(QUESTION)).output


@capability("second turn")
async def _():
    first = await agent().run(QUESTION)
    return (await agent().run("And in Rome?", message_history=first.all_messages())).output


@capability("stream")
async def _():
    async with agent().run_stream(QUESTION) as stream:
        return "".join([piece async for piece in stream.stream_text(delta=True)])


@capability("usage in stream")
async def _():
    async with agent().run_stream(QUESTION) as stream:
        await stream.get_output()
        used = stream.usage() if callable(stream.usage) else stream.usage
    return used.output_tokens and used


@capability("tools")
async def _():
    # Its answer is a call of a tool, too: the model has to call one at every turn.
    return (await agent(output_type=ToolOutput(Place), retries=0).run(QUESTION)).output


@capability("tools streamed")
async def _():
    async with agent(output_type=ToolOutput(Place), retries=0).run_stream(QUESTION) as stream:
        return await stream.get_output()


@capability("JSON schema")
async def _():
    return (await agent(output_type=NativeOutput(Place), retries=0).run(QUESTION)).output


@capability("embeddings")
async def _():
    from pydantic_ai.embeddings.openai import OpenAIEmbeddingModel

    result = await Embedder(OpenAIEmbeddingModel(MODEL, provider=provider())).embed_documents(["A cat."])
    return len(result.embeddings[0])


@capability("responses")
async def _():
    first = await agent(OpenAIResponsesModel).run(QUESTION)
    second = await agent(OpenAIResponsesModel).run("And in Rome?", message_history=first.all_messages())
    place = await agent(OpenAIResponsesModel, output_type=ToolOutput(Place), retries=0).run(QUESTION)
    return second.output and place.output


@capability("options")
async def _():
    # A function beside free text: the model is offered the tool, and chooses.
    run = await agent(tools=[weather]).run(QUESTION, usage_limits=UsageLimits(request_limit=5))
    return run.output


@capability("errors")
async def _():
    try:
        await agent(name=UNKNOWN).run(QUESTION)
    except ModelHTTPError as error:
        return told(error)


@capability("parallel")
async def _():
    one = agent()
    runs = await asyncio.gather(*(one.run(QUESTION) for _ in range(4)))
    return all(run.output for run in runs) and f"{len(runs)} answers"
