"""The audit log's endpoint, for keys of the scope admin."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from pydantic import BeforeValidator, Field

from api.platform import CurrentPlatform
from api.schemas import After, ResponseBody, Timestamp
from configs.recipe import NO_NUL
from registry.clock import to_naive_utc
from registry.repositories.audit import AuditRepository

router = APIRouter(prefix="/audit", tags=["keys"])

LARGEST_PAGE = 1000


def _no_number(value: str) -> str:
    """Pydantic takes a number for seconds since 1970, which is not what the schema says."""
    if "T" not in value.upper():
        raise ValueError("it must be a date and a time, such as 2026-01-31T12:00:00")
    return value


Moment = Annotated[datetime, BeforeValidator(_no_number)]


class AuditEntry(ResponseBody):
    """A change that was asked for, and how it was answered."""

    id: int
    created_at: Timestamp
    created_by: str | None = Field(description="Name of the key; null where the platform asks for none")
    method: str
    path: str
    resource: str | None = Field(description="The id that the answer gave")
    status: int | None = Field(description="The answer's; null: none yet, or for good if the process ended before")
    client: str | None = Field(description="Address that the request came from")


class AuditPage(ResponseBody):
    """Entries in the order that was asked for; ask again with `after` set to `next_after` for more."""

    entries: list[AuditEntry]
    next_after: int | None = Field(description="null: there are no more")


@router.get("")
def list_audit(
    platform: CurrentPlatform,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE, description="At most this many")] = 100,
    after: After = None,
    order: Literal["asc", "desc"] = "asc",
    key: Annotated[str | None, Query(description="Name of a key", pattern=NO_NUL)] = None,
    method: Literal["POST", "DELETE", "PUT", "PATCH"] | None = None,
    path: Annotated[str | None, Query(description="What the path begins with", pattern=NO_NUL)] = None,
    created_after: Moment | None = None,
) -> AuditPage:
    """Get who changed what through the API, the oldest first unless `order` says otherwise."""
    moment = None if created_after is None else to_naive_utc(created_after)
    with platform.database.reading() as session:
        found = AuditRepository(session).list(
            limit + 1,
            after,
            key=key,
            method=method,
            path=path,
            created_after=moment,
            newest_first=order == "desc",
        )
    entries = [AuditEntry.model_validate(entry) for entry in found[:limit]]
    return AuditPage(entries=entries, next_after=entries[-1].id if len(found) > limit else None)
