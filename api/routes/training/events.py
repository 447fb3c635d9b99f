"""A training job's events: a page of JSON, or a stream of server-sent events that can be taken up again."""

import asyncio
import json
from collections.abc import AsyncIterator

from api.platform import Platform
from api.routes.training.presenter import event_of
from api.routes.training.schemas import TrainingEvent
from api.routes.training.service import job_in
from registry.database import Database
from registry.repositories.training_jobs import EVENTS_PER_PAGE, TrainingJobRepository
from registry.run_states import TERMINAL

POLL_SECONDS = 0.5
# A comment now and then keeps proxies from closing a quiet stream.
QUIET_POLLS = 30


def read_events(database: Database, job_id: int, after: int | None, limit: int | None) -> list[TrainingEvent]:
    """Return the job's events after an id, oldest first; `NotFound` if there is no such job."""
    with database.reading() as session:
        job_in(session, job_id)
        events = TrainingJobRepository(session).events(
            job_id, after or 0, min(limit or EVENTS_PER_PAGE, EVENTS_PER_PAGE)
        )
        return [event_of(event) for event in events]


async def stream_events(platform: Platform, job_id: int, after: int) -> AsyncIterator[str]:
    """Yield the job's events as server-sent events, until it has ended and all have been sent."""
    quiet = 0
    while True:
        ended = await asyncio.to_thread(_has_ended, platform.database, job_id)
        events = await asyncio.to_thread(read_events, platform.database, job_id, after, None)
        for event in events:
            after = event.id
            yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.model_dump(mode='json'))}\n\n"
        if ended and not events:
            return
        quiet = 0 if events else quiet + 1
        if quiet % QUIET_POLLS == QUIET_POLLS - 1:
            yield ": still here\n\n"
        await asyncio.sleep(0 if len(events) == EVENTS_PER_PAGE else POLL_SECONDS)


def _has_ended(database: Database, job_id: int) -> bool:
    with database.reading() as session:
        return job_in(session, job_id).status in TERMINAL
