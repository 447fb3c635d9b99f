"""instructor, in every mode that it has for servers of OpenAI's protocol."""

import asyncio
from collections.abc import Iterable
from typing import Literal

import instructor
from instructor.exceptions import IncompleteOutputException, InstructorRetryException
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel
from reporting import BASE_URL, KEY, MODEL, QUESTION, UNKNOWN, capability, told

OPTIONS = {"base_url": BASE_URL, "api_key": KEY, "max_retries": 0}
ASKED = [{"role": "user", "content": QUESTION}]


class Place(BaseModel):
    """A city."""

    city: Literal["Oslo", "Rome"]


def extract(mode, **options):
    client = instructor.from_openai(OpenAI(**OPTIONS), mode=mode)
    asked = {"model": MODEL, "messages": ASKED, "max_retries": 0, "max_tokens": 100}
    return client.chat.completions.create(**(asked | {"response_model": Place} | options))


@capability("tools")
def _():
    modes = (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT)
    return ", ".join(f"{mode.name}: {extract(mode).city}" for mode in modes)


@capability("tools streamed")
def _():
    client = instructor.from_openai(OpenAI(**OPTIONS), mode=instructor.Mode.TOOLS)
    parts = list(client.chat.completions.create_partial(model=MODEL, messages=ASKED, response_model=Place))
    return parts[-1].city and f"{len(parts)} parts, {parts[-1]}"


@capability("JSON schema")
def _():
    return f"JSON_SCHEMA: {extract(instructor.Mode.JSON_SCHEMA)}"


@capability("options")
def _():
    # Nothing holds an answer to the schema in these, so that it may be none: what counts is that it was answered.
    found = []
    for mode in (instructor.Mode.JSON, instructor.Mode.MD_JSON, instructor.Mode.PARALLEL_TOOLS):
        wanted = Iterable[Place] if mode is instructor.Mode.PARALLEL_TOOLS else Place
        try:
            answer = extract(mode, response_model=wanted, temperature=0)
            said = f"{list(answer) if wanted is not Place else answer}"
        except (InstructorRetryException, IncompleteOutputException) as error:
            said = f"no {Place.__name__}: {error.last_completion.choices[0].message}"
        found.append(f"{mode.name}: {said}")
    return ", ".join(found)


@capability("responses")
def _():
    client = instructor.from_openai(OpenAI(**OPTIONS), mode=instructor.Mode.RESPONSES_TOOLS)
    return client.responses.create(model=MODEL, input=QUESTION, response_model=Place, max_retries=0)


@capability("errors")
def _():
    try:
        extract(instructor.Mode.TOOLS, model=UNKNOWN)
    except InstructorRetryException as error:
        return told(error)


@capability("parallel")
async def _():
    client = instructor.from_openai(AsyncOpenAI(**OPTIONS), mode=instructor.Mode.JSON_SCHEMA)
    asked = {"model": MODEL, "messages": ASKED, "response_model": Place, "max_retries": 0}
    return await asyncio.gather(*(client.chat.completions.create(**asked) for _ in range(4)))
