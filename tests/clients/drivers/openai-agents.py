"""openai-agents: agents with tools over `/v1/responses`, its default, and over `/v1/chat/completions`."""

import asyncio
from typing import Literal

from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    SQLiteSession,
    function_tool,
    set_tracing_disabled,
)
from openai import AsyncOpenAI, NotFoundError
from pydantic import BaseModel
from reporting import BASE_URL, KEY, MODEL, QUESTION, UNKNOWN, WEATHER, capability, told

set_tracing_disabled(True)
called = []


class Place(BaseModel):
    city: Literal["Oslo", "Rome"]


@function_tool
def weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tell the weather of a city."""
    called.append(city)
    return WEATHER


def agent(kind=OpenAIChatCompletionsModel, name=MODEL, choice=None, **parts):
    # A client belongs to the loop that used it first, and each capability has a loop of its own.
    client = AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
    settings = ModelSettings(
        temperature=0, parallel_tool_calls=False if choice else None, tool_choice=choice, include_usage=True
    )
    return Agent(name="A", instructions="You are brief.", model=kind(name, client), model_settings=settings, **parts)


@capability("chat")
async def _():
    return (await Runner.run(agent(), QUESTION)).final_output


@capability("second turn")
async def _():
    first = await Runner.run(agent(), QUESTION)
    return (
        await Runner.run(agent(), [*first.to_input_list(), {"role": "user", "content": "And in Rome?"}])
    ).final_output


async def streamed(**parts):
    run = Runner.run_streamed(agent(**parts), QUESTION)
    kinds = {event.type async for event in run.stream_events()}
    return run, kinds


@capability("stream")
async def _():
    run, kinds = await streamed()
    assert "raw_response_event" in kinds
    return run.final_output


@capability("usage in stream")
async def _():
    run, _ = await streamed()
    return run.context_wrapper.usage.output_tokens and run.context_wrapper.usage


@capability("tools")
async def _():
    called.clear()
    run = await Runner.run(agent(tools=[weather], choice="required"), QUESTION, max_turns=6)
    return called and run.final_output is not None and f"called for {called}"


@capability("tools streamed")
async def _():
    called.clear()
    await streamed(tools=[weather], choice="required")
    return called and f"called for {called}"


@capability("JSON schema")
async def _():
    return (await Runner.run(agent(output_type=Place), QUESTION)).final_output


@capability("responses")
async def _():
    called.clear()
    parts = {"kind": OpenAIResponsesModel, "tools": [weather], "choice": "required"}
    await Runner.run(agent(**parts), QUESTION, max_turns=6)
    session = SQLiteSession("one")
    await Runner.run(agent(kind=OpenAIResponsesModel), QUESTION, session=session)
    second = await Runner.run(agent(kind=OpenAIResponsesModel), "And in Rome?", session=session)
    await streamed(**parts)
    await Runner.run(agent(kind=OpenAIResponsesModel, output_type=Place), QUESTION)
    return called and second.final_output


@capability("errors")
async def _():
    try:
        await Runner.run(agent(name=UNKNOWN), QUESTION)
    except NotFoundError as error:
        return told(error)


@capability("parallel")
async def _():
    one = agent()
    runs = await asyncio.gather(*(Runner.run(one, QUESTION) for _ in range(4)))
    return all(run.final_output for run in runs) and f"{len(runs)} answers"
