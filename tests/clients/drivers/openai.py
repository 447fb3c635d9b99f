"""OpenAI's own SDK for Python."""

import asyncio
import json
from typing import Literal

from openai import AsyncOpenAI, NotFoundError, OpenAI
from pydantic import BaseModel
from reporting import BASE_URL, KEY, MODEL, PLACE, QUESTION, UNKNOWN, WEATHER, capability, in_city, refused

client = OpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PLACE, "strict": False}}]
ASKED = {"role": "user", "content": QUESTION}


class Place(BaseModel):
    city: Literal["Oslo", "Rome"]


def ask(messages, **options):
    return client.chat.completions.create(model=MODEL, messages=messages, max_completion_tokens=40, **options)


@capability("chat")
def _():
    return ask([ASKED]).choices[0].message.content


@capability("second turn")
def _():
    messages = [ASKED]
    messages.append(ask(messages).choices[0].message)
    messages.append({"role": "user", "content": "And in Rome?"})
    return ask(messages).choices[0].message.content


@capability("stream")
def _():
    return "".join(chunk.choices[0].delta.content or "" for chunk in ask([ASKED], stream=True) if chunk.choices)


@capability("usage in stream")
def _():
    last = list(ask([ASKED], stream=True, stream_options={"include_usage": True}))[-1]
    return last.usage.completion_tokens and last.usage


@capability("tools")
def _():
    messages = [ASKED]
    answer = ask(messages, tools=TOOLS, tool_choice="required").choices[0].message
    messages.append(answer)
    for call in answer.tool_calls:
        in_city(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": WEATHER})
    ask(messages, tools=TOOLS)
    named = {"type": "function", "function": {"name": "weather"}}
    return ask([ASKED], tools=TOOLS, tool_choice=named).choices[0].message.tool_calls[0].function.arguments


@capability("tools streamed")
def _():
    required = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
    with client.chat.completions.stream(model=MODEL, messages=[ASKED], **required) as stream:
        answer = stream.get_final_completion().choices[0].message
    return in_city(answer.tool_calls[0].function.arguments) and answer.tool_calls[0].function


@capability("JSON schema")
def _():
    answer = client.chat.completions.parse(model=MODEL, messages=[ASKED], response_format=Place)
    return answer.choices[0].message.parsed


@capability("embeddings")
def _():
    first, second = client.embeddings.create(model=MODEL, input=["A cat.", "A dog."]).data
    assert len(first.embedding) == len(second.embedding)
    return len(first.embedding)


@capability("responses")
def _():
    first = client.responses.create(model=MODEL, input=QUESTION, max_output_tokens=20)
    second = client.responses.create(
        model=MODEL, input="And in Rome?", previous_response_id=first.id, max_output_tokens=20
    )
    own = [{"role": "user", "content": QUESTION}, *first.output, {"role": "user", "content": "And in Rome?"}]
    assert client.responses.create(model=MODEL, input=own, max_output_tokens=20, store=False).output_text
    with client.responses.stream(model=MODEL, input=QUESTION, max_output_tokens=20) as stream:
        kinds = [event.type for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] in {"response.completed", "response.incomplete"}, kinds[-1]
    parsed = client.responses.parse(model=MODEL, input=QUESTION, text_format=Place)
    assert parsed.output_parsed
    return second.output_text


@capability("options")
def _():
    options = {"reasoning_effort": "low", "store": True, "metadata": {"a": "b"}, "service_tier": "auto", "seed": 1}
    penalties = {"frequency_penalty": 0.5, "presence_penalty": 0.5, "logit_bias": {"11": -100}, "top_logprobs": 2}
    answer = ask([ASKED], **options, **penalties, logprobs=True, parallel_tool_calls=False, tools=TOOLS)
    return answer.choices[0].message.content or json.dumps(answer.choices[0].finish_reason)


@capability("errors")
def _():
    return refused(lambda: client.chat.completions.create(model=UNKNOWN, messages=[ASKED]), NotFoundError)


@capability("parallel")
async def _():
    several = AsyncOpenAI(base_url=BASE_URL, api_key=KEY, max_retries=0)
    calls = [several.chat.completions.create(model=MODEL, messages=[ASKED], max_completion_tokens=10) for _ in range(4)]
    return all(answer.choices[0].message.content for answer in await asyncio.gather(*calls)) and "4 answers"
