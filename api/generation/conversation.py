"""Answers to conversations, for every route that has them: content, reasoning and calls, whole or as they come."""

from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal

from api.engine_server.schemas import (
    AnswerForm,
    EchoedPrompt,
    EngineGenerateRequest,
    EngineGenerateResponse,
    FinishReason,
)
from api.generation.calls.typed_values import Schemas
from api.generation.reading import AnswerReader, CallArguments, CallBegun, Content, Part, Reasoning
from api.generation.service import IDLE, Generations

EndReason = FinishReason | Literal["tool_calls"]


@dataclass(slots=True)
class Call:
    """A call of a function; `arguments` are the JSON text of an object."""

    id: str
    name: str
    arguments: str = ""


@dataclass(slots=True)
class Answer:
    """A whole answer."""

    finish_reason: EndReason
    prompt_tokens: int
    generated_tokens: int
    reasoning_tokens: int = 0
    """How many of the generated tokens were reasoning."""
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    logprobs: list[dict[str, Any]] = field(default_factory=list)
    prompt: EchoedPrompt | None = None


@dataclass(frozen=True, slots=True)
class End:
    """Why an answer ended, and what it took."""

    finish_reason: EndReason
    prompt_tokens: int
    generated_tokens: int
    reasoning_tokens: int = 0
    stop_string: str | None = None


@dataclass(frozen=True, slots=True)
class Said:
    """What came of answer number `index`: some parts, log-probabilities of the tokens read since, perhaps its end."""

    index: int
    parts: list[Part]
    logprobs: list[dict[str, Any]]
    end: End | None
    prompt_tokens: int | None = None
    """How many tokens the prompt has: with the first that comes of an answer, where it is known then."""


async def whole(
    generations: Generations, requests: Sequence[EngineGenerateRequest], names: Collection[str]
) -> list[Answer]:
    """Return all answers; `names` are those of the functions that may be called. Raises what `Generations` does."""
    answers = await generations.whole(requests)
    return [_read(answer, names, _schemas(request)) for request, answer in zip(requests, answers, strict=True)]


async def pieces(
    generations: Generations, requests: Sequence[EngineGenerateRequest], names: Collection[str]
) -> AsyncGenerator[Said | None, None]:
    """Yield the answers as they come, None while nothing does; ending early cancels them. Raises as `Generations`."""
    readers: dict[int, AnswerReader] = {}
    async with aclosing(generations.pieces(requests)) as events:
        async for index, event in events:
            if (index, event) == IDLE:
                yield None
                continue
            if "form" in event:
                readers[index] = AnswerReader(AnswerForm(**event["form"]), names, _schemas(requests[index]))
                yield Said(index, [], [], None, event.get("prompt_tokens"))
                continue
            reader = readers[index]
            parts = reader.told(event.get("reasoning", ""), event.get("calls", ()))
            parts += reader.push(event.get("text", ""))
            end = None
            if event.get("done"):
                parts += reader.end()
                reason = _reason(event["finish_reason"], reader)
                used = (event["prompt_tokens"], event["generated_tokens"], event.get("reasoning_tokens", 0))
                end = End(reason, *used, event.get("stop_string"))
            yield Said(index, parts, event.get("logprobs", []), end)


def _reason(reason: FinishReason, reader: AnswerReader) -> EndReason:
    return "tool_calls" if reason == "stop" and reader.calls else reason


def _schemas(request: EngineGenerateRequest) -> Schemas:
    """Return the schemas of the arguments of the functions that a request's model is told of."""
    functions = [tool["function"] for tool in request.tools or ()]
    return {function["name"]: function.get("parameters") or {} for function in functions}


def _read(answer: EngineGenerateResponse, names: Collection[str], schemas: Schemas) -> Answer:
    reader = AnswerReader(answer.form, names, schemas)
    parts = reader.told(answer.reasoning, answer.calls) + reader.push(answer.continuation) + reader.end()
    used = (answer.prompt_tokens, answer.generated_tokens, answer.reasoning_tokens)
    read = Answer(_reason(answer.finish_reason, reader), *used)
    for part in parts:
        match part:
            case Content(text):
                read.content += text
            case Reasoning(text):
                read.reasoning += text
            case CallBegun(_, id, name):
                read.calls.append(Call(id, name))
            case CallArguments(index, text):
                read.calls[index].arguments += text
    read.prompt = answer.prompt
    read.logprobs = [one.model_dump() for one in answer.logprobs]
    return read
