"""A page of a list as OpenAI's SDK reads it: it asks for the next one after the last id, while there are more."""

from collections.abc import Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi import Query

from api.schemas import ResponseBody

LARGEST_PAGE = 10_000
Limit = Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="At most this many")]


def after_id(shape: str) -> Any:
    """Return the query parameter that names the entry that a page begins after; `shape` is a pattern of its id."""
    return Query(pattern=f"^{shape}$", description="Id of the entry that the page begins after")


class Listed(ResponseBody):
    """What a list has: each entry is named by its id."""

    id: str


Entry = TypeVar("Entry", bound=Listed)


class Page(ResponseBody, Generic[Entry]):
    """A page of a list."""

    object: Literal["list"] = "list"
    data: Sequence[Entry]
    has_more: bool
    first_id: str | None
    last_id: str | None


def page_of(found: Sequence[Entry], limit: int) -> Page[Entry]:
    """Return the first `limit` entries of what was found when one more was asked for."""
    data = found[:limit]
    return Page(
        data=data,
        has_more=len(found) > limit,
        first_id=data[0].id if data else None,
        last_id=data[-1].id if data else None,
    )
