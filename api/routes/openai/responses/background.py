"""Responses that are answered without their client: begun, seen to be alive, ended, followed by whoever asks.

The process that works on one says every few seconds that it does. One that nobody has been seen to work on for longer
than that is failed, whichever process finds it so.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from api.errors import Invalid
from api.generation.service import IDLE_SECONDS
from api.platform import Platform
from api.routes.openai.responses.output import FINAL, Event
from api.routes.openai.responses.presenter import without_output
from api.routes.openai.responses.run import FAILURES, Run, add_response, events_of, told
from api.routes.openai.responses.stored import found, read_response
from registry.clock import utcnow
from registry.repositories.responses import UNDER_WAY, ConversationRepository, ResponseRepository

logger = logging.getLogger(__name__)

BEAT_SECONDS = 2.0
"""How often a process says that it works on a response, and looks whether it still should."""
FLUSH_SECONDS = 0.3
"""How long events wait to be stored together."""
FOLLOW_SECONDS = 0.2
"""How often stored events are looked for."""
STOPPED = "The API was stopped before this was answered; ask again."


async def begin(platform: Platform, run: Run) -> dict[str, Any]:
    """Store a response as queued, begin to answer it, and return it."""

    def add() -> int:
        with platform.database.transaction() as session:
            responses = ResponseRepository(session)
            row = add_response(responses, run, [])
            row.seen_at, row.streamed = utcnow(), bool(run.body.stream)
            responses.use(run.context.chain)
            return row.id

    queued = dict(run.response)
    platform.background.start(_Work(platform, run, await asyncio.to_thread(add)).run())
    return queued


async def cancel(platform: Platform, uid: str) -> dict[str, Any]:
    """End a response that is answered in the background, wherever that is; return it. Raises `NotFound`, `Invalid`."""

    def end() -> None:
        with platform.database.transaction() as session:
            responses = ResponseRepository(session)
            row = found(responses, uid)
            if not row.body["background"]:
                raise Invalid(f"Response {uid} was not made in the background, and only those can be cancelled.")
            responses.end(row.id, "cancelled", row.body, [])

    await asyncio.to_thread(end)
    return await asyncio.to_thread(read_response, platform, uid)


async def follow(platform: Platform, uid: str, after: int) -> AsyncGenerator[Event | None, None]:
    """Yield the events of a streamed background response with numbers greater than `after`, as they are stored.

    None is a sign of life. Raises `NotFound`, and `Invalid` for a response without events.
    """
    row, number, quiet_since = 0, after, time.monotonic()
    while True:
        # In this order: what has ended by now has all its events.
        response = await asyncio.to_thread(read_response, platform, uid)
        events, row = await asyncio.to_thread(_events, platform, uid, row)
        for one in events:
            number = max(number, one["sequence_number"])
            if one["sequence_number"] > after:
                yield one
        if events and events[-1]["type"] in FINAL:
            return
        if response["status"] not in UNDER_WAY:
            # Its process could not say so: it was cancelled, or that process is gone.
            kind = "response.failed" if response["status"] == "failed" else "response.incomplete"
            yield {"type": kind, "sequence_number": number + 1, "response": response}
            return
        if events:
            quiet_since = time.monotonic()
        elif time.monotonic() - quiet_since > IDLE_SECONDS:
            quiet_since = time.monotonic()
            yield None
        await asyncio.sleep(FOLLOW_SECONDS)


def _events(platform: Platform, uid: str, after: int) -> tuple[list[Event], int]:
    with platform.database.reading() as session:
        responses = ResponseRepository(session)
        response = found(responses, uid)
        if not response.streamed:
            raise Invalid(f"Response {uid} was not made with `stream` in the background, so it has no events.")
        rows = responses.events(response.id, after)
    return [one for _, events in rows for one in events], rows[-1][0] if rows else after


class _Work:
    """Answers one response."""

    def __init__(self, platform: Platform, run: Run, row: int) -> None:
        self._platform = platform
        self._run = run
        self._row = row
        self._unsaid: list[Event] = []
        """Events that are not stored yet."""

    async def run(self) -> None:
        """Answer it to its end, or to what ends it before."""
        answering = asyncio.create_task(self._answer())
        try:
            while not answering.done():
                await asyncio.wait({answering}, timeout=BEAT_SECONDS)
                if not answering.done() and not await asyncio.to_thread(self._seen):
                    answering.cancel()
        except asyncio.CancelledError:
            answering.cancel()
            await asyncio.wait({answering})
            if self._run.response["status"] in UNDER_WAY:
                self._end(self._run.writer.fail("stopped", STOPPED))
            raise
        if not answering.cancelled() and (error := answering.exception()) is not None:
            # What none of the failures is that are expected: the platform's own.
            logger.error("response %s failed", self._run.response["id"], exc_info=error)
            failed = self._run.writer.fail("internal", "The platform failed to answer; its log (api.log) says why.")
            await asyncio.to_thread(self._end, failed)

    async def _answer(self) -> None:
        begun, flushed = False, time.monotonic()
        try:
            async with aclosing(events_of(self._platform, self._run)) as events:
                async for one in events:
                    if one is not None and one["type"] in FINAL:
                        await asyncio.to_thread(self._end, [one])
                        return
                    self._unsaid += [one] if one is not None else []
                    if not begun or time.monotonic() - flushed > FLUSH_SECONDS:
                        await asyncio.to_thread(self._flush, begins=not begun)
                        begun, flushed = True, time.monotonic()
        except FAILURES as error:
            self._unsaid += [] if begun else self._run.writer.begin(queued=True)
            await asyncio.to_thread(self._end, self._run.writer.fail(*told(error)))

    def _seen(self) -> bool:
        try:
            with self._platform.database.transaction() as session:
                return ResponseRepository(session).seen(self._row)
        except SQLAlchemyError:
            logger.warning("the database does not take that response %s is worked on", self._run.response["id"])
            return True

    def _flush(self, *, begins: bool) -> None:
        """Store the events so far, if they are to be read again, and that it has begun."""
        events, self._unsaid = self._unsaid, []
        with self._platform.database.transaction() as session:
            responses = ResponseRepository(session)
            if begins:
                responses.begin(self._row)
            if self._run.body.stream and events:
                responses.add_events(self._row, events)

    def _end(self, events: list[Event]) -> None:
        """Store how it ended, with its last events, unless it was ended by somebody else."""
        run, response = self._run, self._run.response
        try:
            with self._platform.database.transaction() as session:
                responses = ResponseRepository(session)
                body, output = without_output(response), response["output"]
                if not responses.end(self._row, response["status"], body, output):
                    return
                if run.body.stream:
                    responses.add_events(self._row, [*self._unsaid, *events])
                if run.context.conversation is not None and response["status"] != "failed":
                    items = [*run.context.inputs, *output]
                    ConversationRepository(session).append(run.context.conversation, items)
        except SQLAlchemyError:
            # Whoever looks finds that nobody works on it any more.
            logger.exception("the end of response %s could not be stored", response["id"])
