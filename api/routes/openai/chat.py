"""`POST /v1/chat/completions`: a conversation is rendered by the model's own chat template, and answered."""

from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from api.platform import Platform
from api.routes.openai.answers import ask
from api.routes.openai.schemas import DEFAULT_CHAT_TOKENS, ChatRequest
from api.routes.openai.sse import stream

KIND, CHUNK = "chat.completion", "chat.completion.chunk"


async def chat(platform: Platform, body: ChatRequest) -> Response:
    """Return the answers, or a stream of them; raises `NotFound`, `Conflict`, `ServiceDown`, engine errors."""
    asked = await ask(
        platform,
        "chatcmpl",
        body,
        [{"messages": [message.rendered() for message in body.messages]}],
        max_new_tokens=body.max_completion_tokens or body.max_tokens or DEFAULT_CHAT_TOKENS,
        logprobs=(body.top_logprobs or 0) if body.logprobs else None,
        json_schema=body.response_format.schema_of_answer() if body.response_format else None,
    )
    if body.stream:
        usage = body.stream_options is not None and body.stream_options.include_usage
        events = platform.generations.pieces(asked.requests)
        return await stream(asked, CHUNK, events, _Chunks(len(asked.requests)), include_usage=usage)
    answers = await platform.generations.whole(asked.requests)
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": answer.continuation, "refusal": None},
            "finish_reason": answer.finish_reason,
            "logprobs": _logprobs([one.model_dump() for one in answer.logprobs]) if body.logprobs else None,
        }
        for index, answer in enumerate(answers)
    ]
    used = asked.usage([one.prompt_tokens for one in answers], [one.generated_tokens for one in answers])
    return JSONResponse(asked.head(KIND) | {"choices": choices, "usage": used})


class _Chunks:
    """Makes chunks of events: the first of an answer says whose turn it is."""

    def __init__(self, answers: int) -> None:
        self._begun = [False] * answers

    def __call__(self, index: int, event: dict[str, Any]) -> list[dict[str, Any]]:
        chunks = []
        if not self._begun[index]:
            self._begun[index] = True
            chunks.append(_choice(index, {"role": "assistant", "content": ""}))
        if event.get("text") or event.get("logprobs"):
            logprobs = _logprobs(event["logprobs"]) if "logprobs" in event else None
            chunks.append(_choice(index, {"content": event.get("text", "")}, logprobs=logprobs))
        if event.get("done"):
            chunks.append(_choice(index, {}, reason=event["finish_reason"]))
        return chunks


def _choice(
    index: int, delta: dict[str, Any], reason: str | None = None, logprobs: dict[str, Any] | None = None
) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs}


def _logprobs(tokens: list[dict[str, Any]]) -> dict[str, Any]:
    return {"content": tokens, "refusal": None}
