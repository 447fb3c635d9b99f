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
from api.routes.openai.sse import ending, stream

TOOL_PROMPT_HEADER = "x-tool-prompt"
"""`generic` where a model's chat template has no place for tools."""
KIND, CHUNK = "chat.completion", "chat.completion.chunk"


async def chat(platform: Platform, body: ChatRequest) -> Response:
    """Return the answers, or a stream of them; raises `NotFound`, `Conflict`, `ServiceDown`, engine errors."""
    asked = await ask_chat(platform, "chatcmpl", body)
    headers = await tool_headers(platform, asked)
    response: Response
    if body.stream:
        said = conversation.pieces(platform.generations, asked.requests, body.offered_names)
        response = await stream(_lines(asked, said, body))
    else:
        answers = await conversation.whole(platform.generations, asked.requests, body.offered_names)
        choices = [_choice_of(index, answer, body) for index, answer in enumerate(answers)]
        used = asked.usage(
            [one.prompt_tokens for one in answers],
            [one.generated_tokens for one in answers],
            sum(one.reasoning_tokens for one in answers),
        )
        shown = {}
        if body.prompt_logprobs is not None and answers[0].prompt is not None:
            shown = {"prompt_logprobs": prompt_logprobs(answers[0].prompt, body.prompt_logprobs)}
        response = JSONResponse(asked.head(KIND) | {"choices": choices, "usage": used} | shown)
    response.headers.update(headers)
    return response


async def tool_headers(platform: Platform, asked: Asked) -> dict[str, str]:
    """Return the header of an answer whose model is told of its tools in words; raises engine errors."""
    in_words = await platform.generations.tells_tools_in_words(asked.requests[0])
    return {TOOL_PROMPT_HEADER: "generic"} if in_words else {}


async def ask_chat(platform: Platform, prefix: str, body: ChatRequest) -> Asked:
    """Return what the engine is to be asked for a conversation; raises as `ask`."""
    conversation = _conversation(body)
    calls = conversation.get("calls")
    # Where a call is required, the answer's own format has nothing to say.
    has_format = body.response_format is not None and not (calls and calls["required"])
    return await ask(
        platform,
        prefix,
        body,
        [conversation],
        max_new_tokens=body.limit,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
        json_schema=body.response_format.schema_of_answer() if body.response_format and has_format else None,
    )


def _conversation(body: ChatRequest) -> dict[str, Any]:
    conversation: dict[str, Any] = {"messages": [message.rendered() for message in body.messages]}
    if body.offered:
        conversation["tools"] = [tool.rendered() for tool in body.offered]
        conversation["calls"] = body.call_requirement()
    if arguments := body.template_arguments():
        conversation["chat_template_kwargs"] = arguments
    if not body.add_generation_prompt:
        conversation["add_generation_prompt"] = False
        conversation["continue_final_message"] = body.continue_final_message
    return conversation


def _choice_of(index: int, answer: conversation.Answer, body: ChatRequest) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.content, "refusal": None}
    if answer.reasoning:
        message["reasoning_content"] = answer.reasoning
    if answer.calls and body.in_older_form:
        first = answer.calls[0]
        called = {"name": first.name, "arguments": first.arguments}
        message |= {"content": answer.content or None, "function_call": called}
    elif answer.calls:
        calls = [_call(call.id, call.name, call.arguments) for call in answer.calls]
        message |= {"content": answer.content or None, "tool_calls": calls}
    logprobs = _logprobs(answer.logprobs) if body.logprobs else None
    reason = _reason(answer.finish_reason, body)
    return {"index": index, "message": message, "finish_reason": reason, "logprobs": logprobs}


def _reason(reason: conversation.EndReason, body: ChatRequest) -> str:
    """Return why an answer ended, in OpenAI's words: a call of a function that the client named is no decision."""
    if reason != "tool_calls":
        return reason
    if body.named_function is not None:
        return "stop"
    return "function_call" if body.in_older_form else reason


async def _lines(
    asked: Asked, said: AsyncGenerator[conversation.Said | None, None], body: ChatRequest
) -> AsyncGenerator[bytes, None]:
    head = asked.head(CHUNK) | asked.no_usage_yet
    begun = [False] * len(asked.requests)
    prompt_tokens, generated_tokens, reasoning_tokens = [0] * len(begun), [0] * len(begun), 0
    async for one in said:
        if one is None:
            yield KEEP_ALIVE
            continue
        if not begun[one.index]:
            begun[one.index] = True
            yield event(head | {"choices": [_choice(one.index, {"role": "assistant", "content": ""})]})
        delta_of = _older_delta if body.in_older_form else _delta
        deltas = [delta for part in one.parts if (delta := delta_of(part)) is not None]
        if one.logprobs and not deltas:
            deltas = [{"content": ""}]
        for place, delta in enumerate(deltas):
            logprobs = _logprobs(one.logprobs) if one.logprobs and place == 0 else None
            yield event(head | {"choices": [_choice(one.index, delta, logprobs=logprobs)]})
        if one.end is not None:
            prompt_tokens[one.index], generated_tokens[one.index] = one.end.prompt_tokens, one.end.generated_tokens
            reasoning_tokens += one.end.reasoning_tokens
            yield event(head | {"choices": [_choice(one.index, {}, reason=_reason(one.end.finish_reason, body))]})
    for line in ending(asked, head, prompt_tokens, generated_tokens, reasoning_tokens):
        yield line


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


def _older_delta(part: Part) -> dict[str, Any] | None:
    """Return a part in the older form, which has one call."""
    match part:
        case CallBegun(0, _, name):
            return {"function_call": {"name": name, "arguments": ""}}
        case CallArguments(0, text):
            return {"function_call": {"arguments": text}}
        case CallBegun() | CallArguments():
            return None
    return _delta(part)


def _call(id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}


def _logprobs(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": tokens, "refusal": None}
