"""langchain-openai."""

import asyncio
from typing import Literal

from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from openai import NotFoundError
from pydantic import BaseModel
from reporting import BASE_URL, CITIES, KEY, MODEL, QUESTION, UNKNOWN, WEATHER, capability, in_city, refused

options = {"base_url": BASE_URL, "api_key": KEY, "max_retries": 0}
model = ChatOpenAI(model=MODEL, max_completion_tokens=40, use_responses_api=False, **options)
ASKED = HumanMessage(QUESTION)


class Place(BaseModel):
    """A city."""

    city: Literal["Oslo", "Rome"]


@tool
def weather(city: Literal["Oslo", "Rome"]) -> str:
    """Tell the weather of a city."""
    return f"{city}: {WEATHER}"


@capability("chat")
def _():
    return model.invoke([ASKED]).content


@capability("second turn")
def _():
    messages = [ASKED]
    messages.append(model.invoke(messages))
    messages.append(HumanMessage("And in Rome?"))
    return model.invoke(messages).content


@capability("stream")
def _():
    return "".join(chunk.content for chunk in model.stream([ASKED]))


@capability("usage in stream")
def _():
    used = [chunk.usage_metadata for chunk in model.stream([ASKED], stream_usage=True) if chunk.usage_metadata]
    return used[-1]["output_tokens"] and used[-1]


@capability("tools")
def _():
    messages = [ASKED]
    answer = model.bind_tools([weather], tool_choice="any").invoke(messages)
    messages.append(answer)
    messages += [weather.invoke(call) for call in answer.tool_calls]
    assert isinstance(messages[-1], ToolMessage)
    model.bind_tools([weather]).invoke(messages)
    named = model.bind_tools([weather], tool_choice="weather", strict=True).invoke([ASKED])
    return in_city(named.tool_calls[0]["args"]) and named.tool_calls[0]


@capability("tools streamed")
def _():
    chunks = list(model.bind_tools([weather], tool_choice="any").stream([ASKED]))
    whole = chunks[0]
    for chunk in chunks[1:]:
        whole += chunk
    return in_city(whole.tool_calls[0]["args"]) and whole.tool_calls[0]


@capability("JSON schema")
def _():
    found = []
    for method in ("json_schema", "function_calling"):
        place = model.with_structured_output(Place, method=method).invoke([ASKED])
        assert place.city in CITIES
        found.append(f"{method}: {place}")
    return ", ".join(found)


@capability("embeddings")
def _():
    # Token ids are what it sends by default, of a tokenizer of OpenAI's that is not this model's.
    vectors = OpenAIEmbeddings(model=MODEL, check_embedding_ctx_length=False, **options).embed_documents(["A cat."])
    return len(vectors[0])


@capability("responses")
def _():
    through = ChatOpenAI(model=MODEL, max_tokens=30, use_responses_api=True, **options)
    messages = [ASKED]
    messages.append(through.invoke(messages))
    messages.append(HumanMessage("And in Rome?"))
    assert "".join(chunk.text for chunk in through.stream(messages))
    return through.invoke(messages).text


@capability("options")
def _():
    given = ChatOpenAI(model=MODEL, max_completion_tokens=20, reasoning_effort="low", seed=1, logprobs=True, **options)
    return given.invoke([ASKED]).content


@capability("errors")
def _():
    return refused(lambda: ChatOpenAI(model=UNKNOWN, **options).invoke([ASKED]), NotFoundError)


@capability("parallel")
async def _():
    answers = await asyncio.gather(*(model.ainvoke([ASKED]) for _ in range(4)))
    return all(answer.content for answer in answers) and f"{len(answers)} answers"
