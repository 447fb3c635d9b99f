"""`POST /v1/completions`: text or token ids are continued as they are, without a chat template."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import Response
from fastapi.responses import JSONResponse

from api.engine_server.schemas import EngineGenerateResponse
from api.generation.service import IDLE, Event
from api.generation.sse import KEEP_ALIVE, event
from api.platform import Platform
from api.routes.openai.answers import Asked, ask, prompt_logprobs
from api.routes.openai.schemas import DEFAULT_COMPLETION_TOKENS, CompletionRequest
from api.routes.openai.sse import ending, stream

KIND = "text_completion"


async def complete(platform: Platform, body: CompletionRequest) -> Response:
    """Return the continuations, or a stream of them; raises `NotFound`, `Conflict`, `ServiceDown`, engine errors."""
    inputs: list[dict[str, Any]] = [
        {"prompt": prompt} if isinstance(prompt, str) else {"prompt_ids": prompt} for prompt in body.prompts()
    ]
    limit = DEFAULT_COMPLETION_TOKENS if body.max_tokens is None else body.max_tokens
    asked = await ask(
        platform,
        "cmpl",
        body,
        inputs,
        max_new_tokens=limit,
        logprobs=body.logprobs,
        prompt_logprobs=_of_prompt(body),
        echo=bool(body.echo),
    )
    if body.stream:
        return await stream(_lines(asked, platform.generations.pieces(asked.requests), echo=bool(body.echo)))
    answers = await platform.generations.whole(asked.requests)
    choices = [_choice(index, answer, body) for index, answer in enumerate(answers)]
    used = asked.usage([one.prompt_tokens for one in answers], [one.generated_tokens for one in answers])
    return JSONResponse(asked.head(KIND) | {"choices": choices, "usage": used})


async def _lines(asked: Asked, events: AsyncGenerator[Event, None], *, echo: bool) -> AsyncGenerator[bytes, None]:
    answers = len(asked.requests)
    head, chunks = asked.head(KIND) | asked.no_usage_yet, _Chunks(answers, echo=echo)
    prompt_tokens, generated_tokens = [0] * answers, [0] * answers
    async with aclosing(events):
        async for index, said in events:
            if (index, said) == IDLE or "form" in said:
                yield KEEP_ALIVE
                continue
            if said.get("done"):
                prompt_tokens[index], generated_tokens[index] = said["prompt_tokens"], said["generated_tokens"]
            for choice in chunks(index, said):
                yield event(head | {"choices": [choice]})
    for line in ending(asked, head, prompt_tokens, generated_tokens):
        yield line


def _of_prompt(body: CompletionRequest) -> int | None:
    """Return how many likeliest tokens are needed beside each of the prompt's; None: no log-probabilities of it."""
    wanted = [body.logprobs if body.echo else None, body.prompt_logprobs]
    return max((count for count in wanted if count is not None), default=None)


def _choice(index: int, answer: EngineGenerateResponse, body: CompletionRequest) -> dict[str, Any]:
    echoed = answer.prompt if body.echo else None
    text, shown = ("", []) if echoed is None else (echoed.text, [token.model_dump() for token in echoed.tokens])
    choice = {
        "index": index,
        "text": text + answer.continuation,
        "finish_reason": answer.finish_reason,
        "logprobs": None,
    }
    if body.logprobs is not None:
        tokens = [one.model_dump() for one in answer.logprobs]
        offsets = [len(text) + offset for offset in answer.offsets]
        choice["logprobs"] = _logprobs(shown + tokens, [token["offset"] for token in shown] + offsets, body.logprobs)
    if body.prompt_logprobs is not None and answer.prompt is not None:
        choice["prompt_logprobs"] = prompt_logprobs(answer.prompt, body.prompt_logprobs)
    return choice


class _Chunks:
    """Makes chunks of events; the first of an answer has the prompt, if it is to be echoed."""

    def __init__(self, answers: int, *, echo: bool) -> None:
        self._echo = echo
        self._begin = [0] * answers
        """How long the echoed prompt is."""

    def __call__(self, index: int, said: dict[str, Any]) -> list[dict[str, Any]]:
        if "prompt" in said:
            return self._echoed(index, said["prompt"]) if self._echo else []
        offsets = [self._begin[index] + offset for offset in said.get("offsets", [])]
        logprobs = _logprobs(said["logprobs"], offsets) if "logprobs" in said else None
        reason = said["finish_reason"] if said.get("done") else None
        return [{"index": index, "text": said.get("text", ""), "finish_reason": reason, "logprobs": logprobs}]

    def _echoed(self, index: int, prompt: dict[str, Any]) -> list[dict[str, Any]]:
        self._begin[index], tokens = len(prompt["text"]), prompt["tokens"]
        logprobs = _logprobs(tokens, [token["offset"] for token in tokens]) if tokens else None
        return [{"index": index, "text": prompt["text"], "finish_reason": None, "logprobs": logprobs}]


def _logprobs(tokens: list[dict[str, Any]], offsets: list[int], likeliest: int | None = None) -> dict[str, Any]:
    """Return the older of OpenAI's two shapes, with the `likeliest` tokens of each (None: all that are there).

    A token itself is always among its likeliest ones, so that there may be one more.
    """
    return {
        "tokens": [token["token"] for token in tokens],
        "token_logprobs": [token["logprob"] for token in tokens],
        "top_logprobs": [_top(token, likeliest) for token in tokens],
        "text_offset": offsets,
    }


def _top(token: dict[str, Any], likeliest: int | None) -> dict[str, float] | None:
    """Return the likeliest tokens and the token itself; None for a prompt's first one, which follows on nothing."""
    if token["logprob"] is None:
        return None
    top = {rival["token"]: rival["logprob"] for rival in token["top_logprobs"][:likeliest]}
    return top | {token["token"]: token["logprob"]}
