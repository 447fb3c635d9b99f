"""Answers of the engine for every route: one or several of a request, in full or as they come, bounded and counted."""

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Iterable, Iterator, Sequence
from contextlib import aclosing, contextmanager
from typing import Any, TypeVar

from api.counting import SharedCounters
from api.engine_server.schemas import (
    EngineEmbedRequest,
    EngineEmbedResponse,
    EngineGenerateRequest,
    EngineGenerateResponse,
    EngineTokenizeRequest,
    EngineTokens,
)
from api.errors import Invalid
from api.generation.engine_client import EngineRefused
from api.generation.inference import Inference
from api.generation.model_input import ModelInputs
from api.places import Places, Shares
from configs.settings import Settings
from registry.acting import name_of_acting_key
from registry.repositories.statistics import GENERATIONS

T = TypeVar("T")
Event = tuple[int, dict[str, Any]]
"""Index of an answer, and what the engine says of it: how it is to be read, a piece of text, or that it is done."""
IDLE: Event = (-1, {})
"""Nothing has come for a while: a stream says that it is still there."""
FIRST_IDLE_SECONDS = 0.5
"""How long a client waits for a status: what is wrong with a request is known sooner, what it waits for is not."""
IDLE_SECONDS = 15.0
"""Proxies close what is silent for longer: nginx after 60 s."""
AT_ONCE = 64
"""How many answers of one request run or wait in the engine at a time: a large request must not fill it for others."""
EMBEDDINGS_AT_ONCE = 16
BUSY_SECONDS = 0.2
"""How long one waits that the engine has no place for."""
EVENTS_AHEAD = 1024
"""How many events wait for a client that reads slowly, before the engine is read no faster than that."""


class Generations:
    """What routes generate with. `inputs` names models to the engine, `counters` hold what the database lacks."""

    def __init__(self, settings: Settings, engine: Inference, inputs: ModelInputs, counters: SharedCounters) -> None:
        self._settings = settings
        self._engine = engine
        self.inputs = inputs
        self._counters = counters
        self._shares = Shares(settings.generation_answers_per_key)
        self._places = Places(
            settings.generation_connections,
            settings.generation_queue_length,
            settings.generation_timeout_seconds,
            "answers of the inference engine",
        )

    def require_bounded(self, prompts: int, each: int, tokens: int, tokens_field: str) -> None:
        """Raise `Invalid` if a request for `each` answers to so many prompts, of at most `tokens` each, is too large.

        To be asked before anything is made for each of them.
        """
        answers, most = prompts * each, self._settings.generation_max_answers
        field, value = ("n", each) if each > 1 else ("prompt", f"{prompts} prompts")
        if answers > most:
            raise Invalid(
                f"{field} is {value}, which asks for {answers} answers, but at most {most} are accepted in one request "
                "(LLM_PLATFORM_GENERATION_MAX_ANSWERS)."
            )
        if answers * tokens > self._settings.generation_max_tokens:
            raise Invalid(
                f"{tokens_field} is {tokens}, which asks for {answers * tokens} tokens in {answers} answers, but at "
                f"most {self._settings.generation_max_tokens} are accepted in one request "
                "(LLM_PLATFORM_GENERATION_MAX_TOKENS)."
            )

    async def whole(self, requests: Sequence[EngineGenerateRequest]) -> list[EngineGenerateResponse]:
        """Return all answers; raises `Busy` and what the engine's client raises, after cancelling the others."""
        with self._admission(len(requests), AT_ONCE) as turns:

            async def one(request: EngineGenerateRequest) -> EngineGenerateResponse:
                async with turns:
                    return await self._when_free(lambda: self._engine.generate(request))

            answers = await _all_of(one(request) for request in requests)
        self._counters.add(GENERATIONS, len(answers))
        return answers

    async def embeddings(
        self, requests: Sequence[EngineEmbedRequest], take: Callable[[EngineEmbedResponse], T]
    ) -> list[T]:
        """Return what `take` makes of each input's vector; raises what `whole` raises. They are not counted."""
        with self._admission(len(requests), EMBEDDINGS_AT_ONCE) as turns:

            async def one(request: EngineEmbedRequest) -> T:
                async with turns:
                    answer = await self._when_free(lambda: self._engine.embed(request))
                return take(answer)

            return await _all_of(one(request) for request in requests)

    async def tokens(self, request: EngineTokenizeRequest) -> EngineTokens:
        """Return the tokens of a text or a conversation, or the text of tokens; raises what `whole` raises."""
        with self._places.admission(1):
            async with self._places.one():
                return await self._engine.tokenize(request)

    async def pieces(self, requests: Sequence[EngineGenerateRequest]) -> AsyncGenerator[Event, None]:
        """Yield the events of all answers as they come, and `IDLE` while none comes; raises what `whole` raises.

        Ending early cancels every answer.
        """
        events: asyncio.Queue[Event | Exception] = asyncio.Queue(EVENTS_AHEAD)

        async def forward(index: int, request: EngineGenerateRequest, turns: asyncio.Semaphore) -> None:
            async def stream() -> None:
                async with aclosing(self._engine.stream(request)) as pieces:
                    async for event in pieces:
                        await events.put((index, event))

            try:
                async with turns:
                    await self._when_free(stream)
            except Exception as error:  # noqa: BLE001 - raised again by whoever reads the queue
                await events.put(error)

        with self._admission(len(requests), AT_ONCE) as turns:
            tasks = [asyncio.create_task(forward(index, request, turns)) for index, request in enumerate(requests)]
            running, patience = len(tasks), FIRST_IDLE_SECONDS
            try:
                while running:
                    try:
                        async with asyncio.timeout(patience):
                            event = await events.get()
                    except TimeoutError:
                        event = IDLE
                    patience = IDLE_SECONDS
                    if isinstance(event, Exception):
                        raise event
                    running -= bool(event[1].get("done"))
                    yield event
            finally:
                for task in tasks:
                    task.cancel()
                # Not gathered: cancelled again while it waits, `gather` would cancel them in the middle of hanging up,
                # and the engine would go on for nobody.
                await asyncio.wait(tasks)
        self._counters.add(GENERATIONS, len(tasks))

    @contextmanager
    def _admission(self, count: int, at_once: int) -> Iterator[asyncio.Semaphore]:
        """Admit a request for `count` answers, whose turns the semaphore gives; raises `Busy` if there is no room.

        A request is never too long for an idle platform: what is beyond its turns waits within it.
        """
        at_once = min(at_once, self._shares.most or at_once)
        own = min(count, at_once)
        with self._shares.admission(own, name_of_acting_key()), self._places.admission(own):
            yield asyncio.Semaphore(at_once)

    async def _when_free(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what is asked for, once there is a place and the engine's own queue has one; it refuses at once."""
        deadline = time.monotonic() + self._settings.generation_timeout_seconds
        while True:
            async with self._places.one():
                try:
                    return await ask()
                except EngineRefused as error:
                    if error.code != "busy" or time.monotonic() > deadline:
                        raise
            await asyncio.sleep(BUSY_SECONDS)


async def _all_of(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Return all results, in order; the first failure is raised, after cancelling the others."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
