"""`POST /v1/chat/completions`: a conversation is rendered by the model's own chat template, and answered."""

from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from api.generation import conversation
from api.generation.reading import CallArguments, CallBegun, Content, Part, Reasoning
from api.generation.sse import KEEP_ALIVE, event
from api.platform import Platform
from api.routes.openai.answers import Asked, ask, prompt_logprobs
from api.routes.openai.schemas import ChatRequest
from api.routes.openai.sse import END, stream

KIND, CHUNK = "chat.completion", "chat.completion.chunk"


async def chat(platform: Platform, body: ChatRequest) -> Response:
    """Return the answers, or a stream of them; raises `NotFound`, `Conflict`, `ServiceDown`, engine errors."""
    asked = await ask_chat(platform, "chatcmpl", body)
    if body.stream:
        said = conversation.pieces(platform.generations, asked.requests, body.offered_names)
        return await stream(_lines(asked, said))
    answers = await conversation.whole(platform.generations, asked.requests, body.offered_names)
    choices = [_choice_of(index, answer, with_logprobs=bool(body.logprobs)) for index, answer in enumerate(answers)]
    used = asked.usage([one.prompt_tokens for one in answers], [one.generated_tokens for one in answers])
    shown = {}
    if body.prompt_logprobs is not None and answers[0].prompt is not None:
        shown = {"prompt_logprobs": prompt_logprobs(answers[0].prompt, body.prompt_logprobs)}
    return JSONResponse(asked.head(KIND) | {"choices": choices, "usage": used} | shown)


async def ask_chat(platform: Platform, prefix: str, body: ChatRequest) -> Asked:
    """Return what the engine is to be asked for a conversation; raises as `ask`."""
    return await ask(
        platform,
        prefix,
        body,
        [_conversation(body)],
        max_new_tokens=body.limit,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
        json_schema=body.response_format.schema_of_answer() if body.response_format else None,
    )


def _conversation(body: ChatRequest) -> dict[str, Any]:
    conversation: dict[str, Any] = {"messages": [message.rendered() for message in body.messages]}
    if body.offered:
        conversation["tools"] = [tool.rendered() for tool in body.offered]
    if arguments := body.template_arguments():
        conversation["chat_template_kwargs"] = arguments
    if not body.add_generation_prompt:
        conversation["add_generation_prompt"] = False
        conversation["continue_final_message"] = body.continue_final_message
    return conversation


def _choice_of(index: int, answer: conversation.Answer, *, with_logprobs: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls:
        calls = [_call(call.id, call.name, call.arguments) for call in answer.calls]
        message |= {"content": answer.content or None, "tool_calls": calls}
    logprobs = _logprobs(answer.logprobs) if with_logprobs else None
    return {"index": index, "message": message, "finish_reason": answer.finish_reason, "logprobs": logprobs}


async def _lines(asked: Asked, said: AsyncGenerator[conversation.Said | None, None]) -> AsyncGenerator[bytes, None]:
    head = asked.head(CHUNK) | asked.no_usage_yet
    begun = [False] * len(asked.requests)
    prompt_tokens, generated_tokens = [0] * len(begun), [0] * len(begun)
    async for one in said:
        if one is None:
            yield KEEP_ALIVE
            continue
        if not begun[one.index]:
            begun[one.index] = True
            yield event(head | {"choices": [_choice(one.index, {"role": "assistant", "content": ""})]})
        deltas: list[dict[str, Any]] = [_delta(part) for part in one.parts]
        if one.logprobs and not deltas:
            deltas = [{"content": ""}]
        for place, delta in enumerate(deltas):
            logprobs = _logprobs(one.logprobs) if one.logprobs and place == 0 else None
            yield event(head | {"choices": [_choice(one.index, delta, logprobs=logprobs)]})
        if one.end is not None:
            prompt_tokens[one.index], generated_tokens[one.index] = one.end.prompt_tokens, one.end.generated_tokens
            yield event(head | {"choices": [_choice(one.index, {}, reason=one.end.finish_reason)]})
    if asked.include_usage:
        yield event(head | {"choices": [], "usage": asked.usage(prompt_tokens, generated_tokens)})
    yield END


def _delta(part: Part) -> dict[str, Any]:
    match part:
        case Content(text):
            return {"content": text}
        case Reasoning(text):
            return {"reasoning_content": text}
        case CallBegun(index, id, name):
            return {"tool_calls": [{"index": index, **_call(id, name, "")}]}
        case CallArguments(index, text):
            return {"tool_calls": [{"index": index, "function": {"arguments": text}}]}


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}


def _logprobs(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": tokens, "refusal": None}
