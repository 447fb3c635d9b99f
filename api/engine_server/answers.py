"""From the engine to the client: tokens into text, as one answer or as a stream."""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from api.engine_server.errors import status_and_body
from api.engine_server.event_bridge import Progress
from api.engine_server.schemas import EngineEmbedResponse, EngineGenerateResponse, TokenLogprob
from api.generation.connections import ClientGone, following, unless_gone
from api.generation.sse import event as sse_event

if TYPE_CHECKING:
    from api.engine_server.service import TextEmbedding, TextGeneration

logger = logging.getLogger("uvicorn.error")


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that has become certain, and what was asked for of the tokens read since; offsets count characters."""

    text: str = ""
    logprobs: list[TokenLogprob] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)


BEGUN = Piece()
"""The first piece: the request runs, with its weights loaded."""


async def pieces(generation: "TextGeneration", progress: Progress) -> AsyncGenerator[Piece, None]:
    """Yield `BEGUN`, then the continuation piece by piece, whenever `progress` reports some.

    Raises the generation's error. Ending early cancels the generation.
    """
    try:
        await progress.wait()
        if generation.generation.error is not None:
            raise generation.generation.error
        yield BEGUN
        done, shown = False, 0
        while not (done or generation.text.stopped):
            done = generation.generation.done  # before its tokens are read: after it none comes
            if text := generation.new_text():
                logprobs = generation.new_logprobs()
                yield Piece(text, logprobs, generation.text.offsets[shown : shown + len(logprobs)])
                shown += len(logprobs)
            if not (done or generation.text.stopped):
                await progress.wait()
        if generation.generation.error is not None:
            raise generation.generation.error
        rest = "" if generation.text.stopped else generation.text.finish()
        last, ending = generation.new_logprobs(), generation.end_logprobs()
        offsets = generation.text.offsets[shown : shown + len(last)] + [generation.text.length] * len(ending)
        if rest or offsets:
            yield Piece(rest, last + ending, offsets)
    finally:
        generation.end()


async def full_answer(
    request: Request, prompt: str, generation: "TextGeneration", progress: Progress
) -> AsyncGenerator[bytes, None]:
    """Yield a space when the request begins to run, and one JSON object when it is answered or has failed.

    An error before that is raised: the status is sent with the space.
    """
    read: list[Piece] = []
    found = pieces(generation, progress)
    await anext(found)
    yield b" "
    try:
        while (piece := await unless_gone(request, anext(found, None))) is not None:
            read.append(piece)
    except ClientGone:
        return
    except Exception as error:
        logger.exception("a generation failed")
        yield json.dumps(status_and_body(error)[1]).encode()
        return
    continuation = "".join(piece.text for piece in read)
    answer = EngineGenerateResponse(
        text=prompt + continuation,
        continuation=continuation,
        form=generation.form,
        logprobs=[token for piece in read for token in piece.logprobs],
        offsets=[offset for piece in read for offset in piece.offsets],
        prompt=await run_in_threadpool(generation.echoed),
        **generation.usage().model_dump(),
    )
    yield answer.model_dump_json().encode()


async def streamed_answer(generation: "TextGeneration", progress: Progress) -> AsyncGenerator[bytes, None]:
    """Yield server-sent events: `{"running": true, "form": …, "prompt_tokens": …}`, `{"text": piece}` …, and the usage.

    The usage has `"done": true`. What is told of the prompt, `{"prompt": …}`, comes before the first text. An error
    before the first event is raised; a later one becomes an event, as the status has been sent by then.
    """
    found = pieces(generation, progress)
    await anext(found)
    prompt_tokens = generation.usage().prompt_tokens
    yield sse_event({"running": True, "form": generation.form.model_dump(), "prompt_tokens": prompt_tokens})
    prompt_shown = False
    try:
        async for piece in found:
            if not prompt_shown and (event := await _prompt_event(generation)) is not None:
                yield event
            prompt_shown = True
            shown = {"logprobs": [token.model_dump() for token in piece.logprobs], "offsets": piece.offsets}
            yield sse_event({"text": piece.text, **(shown if piece.logprobs else {})})
    except Exception as error:
        logger.exception("a stream failed")
        yield sse_event(status_and_body(error)[1])
        return
    if not prompt_shown and (event := await _prompt_event(generation)) is not None:
        yield event
    yield sse_event({"done": True, **generation.usage().model_dump()})


async def _prompt_event(generation: "TextGeneration") -> bytes | None:
    """Return the event with the prompt; None if it is not asked for."""
    prompt = await run_in_threadpool(generation.echoed)
    return None if prompt is None else sse_event({"prompt": prompt.model_dump()})


async def embedding_answer(embedding: "TextEmbedding", progress: Progress) -> EngineEmbedResponse:
    """Return the embedding when it is done; raises what its request failed with. Ending early cancels it."""
    try:
        while not embedding.embedding.done:
            await progress.wait()
        return embedding.answer()
    finally:
        embedding.end()


class CancellingStream(StreamingResponse):
    """An answer whose generation is cancelled however the response ends."""

    def __init__(self, first: bytes, rest: AsyncIterator[bytes], generation: "TextGeneration", media_type: str) -> None:
        super().__init__(following(first, rest), headers={"Cache-Control": "no-store"}, media_type=media_type)
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events (ASGI)."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            # A generator that is not being iterated at that moment would notice only when it is collected.
            self._generation.generation.cancel()
