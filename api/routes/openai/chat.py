"""`POST /v1/chat/completions`: a conversation is rendered by the model's own chat template, and answered."""

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from api.engine_server.schemas import EngineGenerateResponse
from api.generation.tool_calls import CallReader
from api.platform import Platform
from api.routes.openai.answers import ask, prompt_logprobs
from api.routes.openai.schemas import DEFAULT_CHAT_TOKENS, ChatRequest
from api.routes.openai.sse import stream

CALLED = "tool_calls"
KIND, CHUNK = "chat.completion", "chat.completion.chunk"


async def chat(platform: Platform, body: ChatRequest) -> Response:
    """Return the answers, or a stream of them; raises `NotFound`, `Conflict`, `ServiceDown`, engine errors."""
    asked = await ask(
        platform,
        "chatcmpl",
        body,
        [_conversation(body)],
        max_new_tokens=body.max_completion_tokens or body.max_tokens or DEFAULT_CHAT_TOKENS,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        prompt_logprobs=body.prompt_logprobs,
        json_schema=body.response_format.schema_of_answer() if body.response_format else None,
    )
    names = [tool.function.name for tool in body.offered]
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = platform.generations.pieces(asked.requests)
        return await stream(asked, CHUNK, events, _Chunks(len(asked.requests), names), include_usage=usage)
    answers = await platform.generations.whole(asked.requests)
    choices = [
        _choice_of(index, answer, names, with_logprobs=bool(body.logprobs)) for index, answer in enumerate(answers)
    ]
    used = asked.usage([one.prompt_tokens for one in answers], [one.generated_tokens for one in answers])
    shown = {}
    if body.prompt_logprobs is not None and answers[0].prompt is not None:
        shown = {"prompt_logprobs": prompt_logprobs(answers[0].prompt, body.prompt_logprobs)}
    return JSONResponse(asked.head(KIND) | {"choices": choices, "usage": used} | shown)


def _conversation(body: ChatRequest) -> dict[str, Any]:
    conversation: dict[str, Any] = {"messages": [message.rendered() for message in body.messages]}
    if body.offered:
        conversation["tools"] = [tool.rendered() for tool in body.offered]
    if body.chat_template_kwargs:
        conversation["chat_template_kwargs"] = body.chat_template_kwargs
    return conversation


def _choice_of(index: int, answer: EngineGenerateResponse, names: list[str], *, with_logprobs: bool) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.continuation, "refusal": None}
    reason: str = answer.finish_reason
    if names:
        reader = CallReader(names)
        (content, calls), (rest, last) = reader.push(answer.continuation), reader.end()
        if calls + last:
            message |= {"content": content + rest or None, "tool_calls": [call.as_json() for call in calls + last]}
            reason = CALLED if reason == "stop" else reason
    logprobs = _logprobs([one.model_dump() for one in answer.logprobs]) if with_logprobs else None
    return {"index": index, "message": message, "finish_reason": reason, "logprobs": logprobs}


class _Chunks:
    """Makes chunks of events: the first of an answer says whose turn it is."""

    def __init__(self, answers: int, names: list[str]) -> None:
        """`names` are those of the functions that may be called."""
        self._begun = [False] * answers
        self._readers = [CallReader(names) for _ in range(answers)] if names else []

    def __call__(self, index: int, event: dict[str, Any]) -> list[dict[str, Any]]:
        chunks = []
        if not self._begun[index]:
            self._begun[index] = True
            chunks.append(_choice(index, {"role": "assistant", "content": ""}))
        text, calls = event.get("text", ""), list[dict[str, Any]]()
        if self._readers:
            text, calls = self._read(index, text, done=bool(event.get("done")))
        if text or event.get("logprobs"):
            logprobs = _logprobs(event["logprobs"]) if "logprobs" in event else None
            chunks.append(_choice(index, {"content": text}, logprobs=logprobs))
        chunks += [_choice(index, {"tool_calls": [call]}) for call in calls]
        if event.get("done"):
            called = bool(self._readers) and self._readers[index].calls > 0
            reason = CALLED if called and event["finish_reason"] == "stop" else event["finish_reason"]
            chunks.append(_choice(index, {}, reason=reason))
        return chunks

    def _read(self, index: int, text: str, *, done: bool) -> tuple[str, list[dict[str, Any]]]:
        """Return content and calls of an answer's next piece, each call in one delta."""
        reader = self._readers[index]
        first = reader.calls
        content, calls = reader.push(text)
        if done:
            rest, last = reader.end()
            content, calls = content + rest, calls + last
        return content, [{"index": first + place, **call.as_json()} for place, call in enumerate(calls)]


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}


def _logprobs(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": tokens, "refusal": None}
