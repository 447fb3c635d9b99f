"""Anthropic's own SDK, which speaks the protocol of `/v1/messages`."""

import asyncio

from anthropic import Anthropic, AsyncAnthropic, NotFoundError
from reporting import BASE_URL, KEY, MODEL, PLACE, QUESTION, UNKNOWN, WEATHER, capability, in_city, refused

ROOT = BASE_URL.removesuffix("/v1")
client = Anthropic(base_url=ROOT, api_key=KEY, max_retries=0)
TOOLS = [{"name": "weather", "description": "The weather of a city.", "input_schema": PLACE}]
ASKED = {"role": "user", "content": QUESTION}


def ask(messages, **options):
    return client.messages.create(model=MODEL, messages=messages, max_tokens=40, **options)


@capability("chat")
def _():
    return ask([ASKED], system="You are brief.").content[0].text


@capability("second turn")
def _():
    messages = [ASKED, {"role": "assistant", "content": ask([ASKED]).content}]
    messages.append({"role": "user", "content": "And in Rome?"})
    return ask(messages).content[0].text


@capability("stream")
def _():
    with client.messages.stream(model=MODEL, messages=[ASKED], max_tokens=40) as stream:
        return "".join(stream.text_stream)


@capability("usage in stream")
def _():
    with client.messages.stream(model=MODEL, messages=[ASKED], max_tokens=40) as stream:
        used = stream.get_final_message().usage
    return used.output_tokens and used.input_tokens and used


@capability("tools")
def _():
    messages = [ASKED]
    answer = ask(messages, tools=TOOLS, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert answer.stop_reason == "tool_use"
    messages.append({"role": "assistant", "content": answer.content})
    calls = [block for block in answer.content if block.type == "tool_use"]
    results = [{"type": "tool_result", "tool_use_id": call.id, "content": WEATHER} for call in calls]
    messages.append({"role": "user", "content": results})
    ask(messages, tools=TOOLS)
    return in_city(calls[0].input) and calls[0]


@capability("tools streamed")
def _():
    choice = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    with client.messages.stream(
        model=MODEL, messages=[ASKED], max_tokens=40, tools=TOOLS, tool_choice=choice
    ) as stream:
        answer = stream.get_final_message()
    return in_city(answer.content[-1].input) and answer.content[-1]


@capability("options")
def _():
    kept = [{"type": "text", "text": "You are brief.", "cache_control": {"type": "ephemeral"}}]
    assert client.messages.count_tokens(model=MODEL, messages=[ASKED]).input_tokens
    return ask([ASKED], system=kept, stop_sequences=["\n\n"], metadata={"user_id": "a"}).stop_reason


@capability("errors")
def _():
    return refused(lambda: client.messages.create(model=UNKNOWN, messages=[ASKED], max_tokens=4), NotFoundError)


@capability("parallel")
async def _():
    several = AsyncAnthropic(base_url=ROOT, api_key=KEY, max_retries=0)
    calls = [several.messages.create(model=MODEL, messages=[ASKED], max_tokens=10) for _ in range(4)]
    return all(answer.content for answer in await asyncio.gather(*calls)) and "4 answers"
