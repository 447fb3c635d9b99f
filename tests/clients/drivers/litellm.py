"""litellm, through its provider `openai/`."""

import asyncio
from typing import Literal

import litellm
from pydantic import BaseModel
from reporting import BASE_URL, KEY, MODEL, PLACE, QUESTION, UNKNOWN, WEATHER, capability, in_city, refused

litellm.telemetry = False
OPTIONS = {"api_base": BASE_URL, "api_key": KEY, "num_retries": 0, "max_tokens": 40}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PLACE}}]
ASKED = {"role": "user", "content": QUESTION}


class Place(BaseModel):
    city: Literal["Oslo", "Rome"]


def ask(messages, model=MODEL, **options):
    return litellm.completion(model=f"openai/{model}", messages=messages, **OPTIONS, **options)


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
    return "".join(chunk.choices[0].delta.content or "" for chunk in ask([ASKED], stream=True))


@capability("usage in stream")
def _():
    used = [
        getattr(chunk, "usage", None) for chunk in ask([ASKED], stream=True, stream_options={"include_usage": True})
    ]
    return used[-1].completion_tokens and used[-1]


@capability("tools")
def _():
    messages = [ASKED]
    answer = ask(messages, tools=TOOLS, tool_choice="required").choices[0].message
    messages.append(answer)
    for call in answer.tool_calls:
        in_city(call.function.arguments)
        messages.append({"role": "tool", "tool_call_id": call.id, "content": WEATHER})
    ask(messages, tools=TOOLS)
    return answer.tool_calls[0].function


@capability("tools streamed")
def _():
    chunks = list(ask([ASKED], tools=TOOLS, tool_choice="required", stream=True))
    whole = litellm.stream_chunk_builder(chunks, messages=[ASKED]).choices[0].message
    return in_city(whole.tool_calls[0].function.arguments) and whole.tool_calls[0].function


@capability("JSON schema")
def _():
    return Place.model_validate_json(ask([ASKED], response_format=Place).choices[0].message.content)


@capability("embeddings")
def _():
    answer = litellm.embedding(model=f"openai/{MODEL}", input=["A cat."], api_base=BASE_URL, api_key=KEY)
    return len(answer.data[0]["embedding"])


@capability("responses")
def _():
    options = {"model": f"openai/{MODEL}", "api_base": BASE_URL, "api_key": KEY, "max_output_tokens": 30}
    first = litellm.responses(input=QUESTION, **options)
    assert list(litellm.responses(input=QUESTION, stream=True, **options))
    return litellm.responses(input="And in Rome?", previous_response_id=first.id, **options).output[-1].content[0].text


@capability("options")
def _():
    return ask([ASKED], reasoning_effort="low", drop_params=True, user="a", seed=1).choices[0].message.content


@capability("errors")
def _():
    return refused(lambda: ask([ASKED], UNKNOWN), litellm.NotFoundError)


@capability("parallel")
async def _():
    calls = [litellm.acompletion(model=f"openai/{MODEL}", messages=[ASKED], **OPTIONS) for _ in range(4)]
    return all(answer.choices[0].message.content for answer in await asyncio.gather(*calls)) and "4 answers"
