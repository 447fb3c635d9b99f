"""Stored responses: read, deleted, their items listed."""

from datetime import timedelta
from typing import Any, Literal

from api.errors import NotFound
from api.platform import Platform
from api.routes.openai.responses.presenter import stored_response
from api.routes.openai.responses.request import is_id
from registry.clock import utcnow
from registry.repositories.responses import UNDER_WAY, ResponseRepository
from registry.tables import StoredResponse

LEASE_SECONDS = 30
"""A response that nobody has been seen to work on for so long is worked on by nobody."""
LOST = "The process that answered this is gone; ask again."
Order = Literal["asc", "desc"]


def found(responses: ResponseRepository, uid: str) -> StoredResponse:
    """Return a stored response; raises `NotFound`."""
    response = responses.get(uid) if is_id(uid) else None
    if response is None:
        raise NotFound(f"Response with id {uid[:80]!r} not found.")
    return response


def read_response(platform: Platform, uid: str) -> dict[str, Any]:
    """Return a stored response as it is now; raises `NotFound`."""
    with platform.database.reading() as session:
        responses = ResponseRepository(session)
        response = found(responses, uid)
        outputs = responses.items(response.id, is_output=True)
    before = utcnow() - timedelta(seconds=LEASE_SECONDS)
    if response.status in UNDER_WAY and response.seen_at is not None and response.seen_at < before:
        body = response.body | {"error": {"code": "server_error", "message": LOST}}
        with platform.database.transaction() as session:
            ResponseRepository(session).lose(response, body, before)
        return read_response(platform, uid)
    return stored_response(response, outputs)


def delete_response(platform: Platform, uid: str) -> None:
    """Delete a stored response with its items; raises `NotFound`."""
    with platform.database.transaction() as session:
        responses = ResponseRepository(session)
        responses.remove(found(responses, uid))


def input_items(platform: Platform, uid: str, limit: int, after: str | None, order: Order) -> dict[str, Any]:
    """Return a page of the items that a response was made from, those that it goes on from first.

    Raises `NotFound`, also for an `after` that is none of them.
    """
    with platform.database.reading() as session:
        responses = ResponseRepository(session)
        response = found(responses, uid)
        before = responses.chain(response.previous_uid) if response.previous_uid is not None else []
        items: list[dict[str, Any]] = []
        for one in before or []:
            items += responses.items(one.id, is_output=False) + responses.items(one.id, is_output=True)
        items += responses.items(response.id, is_output=False)
    return page_of_items(items, limit, after, order)


def page_of_items(items: list[dict[str, Any]], limit: int, after: str | None, order: Order) -> dict[str, Any]:
    """Return a page of items in their order, or the newest first; raises `NotFound` for an unknown `after`."""
    ordered = items if order == "asc" else items[::-1]
    start = 0
    if after is not None:
        ids = [item["id"] for item in ordered]
        if after not in ids:
            raise NotFound(f"after is {after[:80]!r}, which is no item of this list.", param="after")
        start = ids.index(after) + 1
    data = ordered[start : start + limit]
    return {
        "object": "list",
        "data": data,
        "has_more": len(ordered) > start + limit,
        "first_id": data[0]["id"] if data else "",
        "last_id": data[-1]["id"] if data else "",
    }
