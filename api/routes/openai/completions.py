"""`POST /v1/completions`: text or token ids are continued as they are, without a chat template."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from api.generation.service import Event
from api.generation.sse import KEEP_ALIVE, event
from api.platform import Platform
from api.routes.openai.answers import Asked, ask
from api.routes.openai.schemas import DEFAULT_COMPLETION_TOKENS, CompletionRequest
from api.routes.openai.sse import END, stream

KIND = "text_completion"


async def complete(platform: Platform, body: CompletionRequest) -> Response:
    """Return the continuations, or a stream of them; raises `NotFound`, `Conflict`, `ServiceDown`, engine errors."""
    inputs: list[dict[str, Any]] = [
        {"prompt": prompt} if isinstance(prompt, str) else {"prompt_ids": prompt} for prompt in body.prompts()
    ]
    limit = body.max_tokens or DEFAULT_COMPLETION_TOKENS
    asked = await ask(platform, "cmpl", body, inputs, max_new_tokens=limit, logprobs=body.logprobs)
    prompts = [str(request.prompt or "") if body.echo else "" for request in asked.requests]
    if body.stream:
        return await stream(_lines(asked, platform.generations.pieces(asked.requests), prompts, body))
    answers = await platform.generations.whole(asked.requests)
    choices = [
        {
            "index": index,
            "text": prompts[index] + answer.continuation,
            "finish_reason": answer.finish_reason,
            "logprobs": _logprobs([one.model_dump() for one in answer.logprobs], len(prompts[index]))
            if body.logprobs is not None
            else None,
        }
        for index, answer in enumerate(answers)
    ]
    used = asked.usage([one.prompt_tokens for one in answers], [one.generated_tokens for one in answers])
    return JSONResponse(asked.head(KIND) | {"choices": choices, "usage": used})


async def _lines(
    asked: Asked, events: AsyncGenerator[Event, None], prompts: list[str], body: CompletionRequest
) -> AsyncGenerator[bytes, None]:
    head, chunks = asked.head(KIND) | asked.no_usage_yet, _Chunks(prompts)
    prompt_tokens, generated_tokens = [0] * len(prompts), [0] * len(prompts)
    async with aclosing(events):
        async for index, said in events:
            if "text" not in said and not said.get("done"):
                yield KEEP_ALIVE
                continue
            if said.get("done"):
                prompt_tokens[index], generated_tokens[index] = said["prompt_tokens"], said["generated_tokens"]
            yield event(head | {"choices": [chunks(index, said)]})
    if asked.include_usage:
        yield event(head | {"choices": [], "usage": asked.usage(prompt_tokens, generated_tokens)})
    yield END


class _Chunks:
    """Makes chunks of events; knows how much of each text has gone out."""

    def __init__(self, prompts: list[str]) -> None:
        self._echo = list(prompts)
        self._sent = [0] * len(prompts)

    def __call__(self, index: int, said: dict[str, Any]) -> dict[str, Any]:
        done = said.get("done")
        text, self._echo[index] = self._echo[index] + said.get("text", ""), ""
        logprobs = _logprobs(said["logprobs"], self._sent[index]) if "logprobs" in said else None
        self._sent[index] += len(text)
        reason = said["finish_reason"] if done else None
        return {"index": index, "text": text, "finish_reason": reason, "logprobs": logprobs}


def _logprobs(tokens: list[dict[str, Any]], start: int) -> dict[str, Any]:
    """Return the older of OpenAI's two shapes; `start` is where the first token stands in the text."""
    offsets, position = [], start
    for token in tokens:
        offsets.append(position)
        position += len(token["token"])
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [{top["token"]: top["logprob"] for top in token["top_logprobs"]} for token in tokens],
        "text_offset": offsets,
    }
