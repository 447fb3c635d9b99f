"""From requests of OpenAI's shape to the engine and back: all the answers of one request, whole or as they come."""

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from api.engine_server.schemas import EngineGenerateRequest, EngineGenerateResponse
from api.platform import Platform
from api.routes.models.service import count_generations, engine_request
from api.routes.openai.fine_tuning.checkpoints import answering
from api.routes.openai.schemas import CompletionUsage, GenerationOptions

T = TypeVar("T")
Event = tuple[int, dict[str, Any]]
"""Index of an answer, and what the engine says of it: a piece of text, or that it is done."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One request with all the answers that it wants, in the order of their indices: those of a prompt together."""

    id: str
    created: int
    model: str
    answers_each: int
    requests: list[EngineGenerateRequest]

    def head(self, kind: str) -> dict[str, Any]:
        """Return the fields that every answer and chunk begins with."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def usage(self, prompt_tokens: Sequence[int], generated_tokens: Sequence[int]) -> dict[str, Any]:
        """Return the token counts; `prompt_tokens` and `generated_tokens` go by index."""
        prompts = sum(prompt_tokens[:: self.answers_each])
        generated = sum(generated_tokens)
        return CompletionUsage(
            prompt_tokens=prompts, completion_tokens=generated, total_tokens=prompts + generated
        ).model_dump()


async def ask(
    platform: Platform, prefix: str, options: GenerationOptions, inputs: Sequence[dict[str, Any]], **settings: Any
) -> Asked:
    """Return what the engine is to be asked: each of the `inputs` (prompt, ids or messages) `n` times.

    Raises `NotFound`, `Conflict` and `ServiceDown` where the model can't answer.
    """

    def prepare() -> list[EngineGenerateRequest]:
        model, adapter = answering(platform, options.model)
        return [
            engine_request(
                platform, model, adapter, **one, **settings, **options.sampling(), seed=_seed(options, index)
            )
            for one in inputs
            for index in range(options.answers)
        ]

    requests = await asyncio.to_thread(prepare)
    return Asked(f"{prefix}-{uuid4().hex}", int(time.time()), options.model, options.answers, requests)


def _seed(options: GenerationOptions, index: int) -> int | None:
    return None if options.seed is None else options.seed + index


async def whole(platform: Platform, asked: Asked) -> list[EngineGenerateResponse]:
    """Return all answers; raises what the engine's client raises, after cancelling the others."""
    answers = await all_of(platform.engine.generate(request) for request in asked.requests)
    await asyncio.to_thread(count_generations, platform.database, len(answers))
    return answers


async def all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results, in order; the first failure is raised, after cancelling the others."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def pieces(platform: Platform, asked: Asked) -> AsyncGenerator[Event, None]:
    """Yield the events of all answers as they come; raises what the engine's client raises.

    Ending early cancels every answer.
    """
    events: asyncio.Queue[Event | Exception] = asyncio.Queue()

    async def forward(index: int, request: EngineGenerateRequest) -> None:
        try:
            async for event in platform.engine.stream(request):
                await events.put((index, event))
        except Exception as error:  # noqa: BLE001 - raised again by whoever reads the queue
            await events.put(error)

    tasks = [asyncio.create_task(forward(index, request)) for index, request in enumerate(asked.requests)]
    running = len(tasks)
    try:
        while running:
            event = await events.get()
            if isinstance(event, Exception):
                raise event
            running -= bool(event[1].get("done"))
            yield event
    finally:
        for task in tasks:
            task.cancel()
        # Not gathered: cancelled again while it waits, `gather` would cancel them in the middle of hanging up, and the
        # engine would go on for nobody.
        await asyncio.wait(tasks)
    await asyncio.to_thread(count_generations, platform.database, len(tasks))
