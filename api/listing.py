"""The lists of the documented API: what they can be asked for, and where one that is cut goes on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Depends, Query
from pydantic import AfterValidator, BeforeValidator, StringConstraints

from api.schemas import After, Limit
from configs.recipe import LARGEST_ID, NO_NUL
from registry.clock import to_naive_utc
from registry.repositories.paging import Filters
from registry.tables import Dataset, Evaluation, Model, TrainingJob

LONGEST_LIST = 1000
"""Entries of a list for which no `limit` was given; a longer one is cut, and says where it goes on."""


def _utc(moment: datetime) -> datetime:
    try:
        return to_naive_utc(moment)
    except OverflowError as error:
        raise ValueError("it must be a moment between the years 1 and 9999 in UTC") from error


Order = Annotated[Literal["asc", "desc"], Query(description="By id: `asc` oldest first, `desc` newest first")]
Name = Annotated[
    str | None,
    StringConstraints(min_length=1, max_length=200, pattern=NO_NUL),
    Query(description="Only those of exactly this name"),
]
CreatedAfter = Annotated[
    datetime | None,
    # A number would be read as seconds since 1970: what is documented is a moment as the API writes it.
    BeforeValidator(lambda given: given if given is None or not _is_number(given) else "a number"),
    AfterValidator(lambda moment: None if moment is None else _utc(moment)),
    Query(description="Only those made later than this moment (ISO 8601; UTC without an offset)"),
]
OfModel = Annotated[int | None, Query(ge=1, le=LARGEST_ID, description="Only those of this model")]
FlowStatus = Annotated[
    Literal["PENDING", "RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED"] | None,
    Query(description="Only those in this status"),
]


def _is_number(given: object) -> bool:
    try:
        float(str(given))
    except ValueError:
        return False
    return True


Entry = TypeVar("Entry", Model, TrainingJob, Evaluation, Dataset)


@dataclass(frozen=True, slots=True)
class Part(Generic[Entry]):
    """The part of a list that is answered."""

    entries: Sequence[Entry]
    next_after: int | None
    """What `after` has to be for the rest; None if this is the end."""


@dataclass(frozen=True, slots=True)
class Paging:
    """Which part of a list is wanted, and in which order."""

    limit: int | None
    after: int | None
    order: Literal["asc", "desc"]

    def read(self, find: Callable[[int, int | None, bool], Sequence[Entry]]) -> Part[Entry]:
        """Return the wanted part; `find` gets how many to look for, after which id, and whether newest first."""
        most = self.limit or LONGEST_LIST
        # One more says whether there are more.
        found = find(most + 1, self.after, self.order == "desc")
        entries = found[:most]
        return Part(entries, entries[-1].id if len(found) > most else None)


def _paging(limit: Limit = None, after: After = None, order: Order = "asc") -> Paging:
    return Paging(limit, after, order)


def _of_flows(
    status: FlowStatus = None, name: Name = None, model_id: OfModel = None, created_after: CreatedAfter = None
) -> Filters:
    return Filters(status, name, model_id, created_after)


Paged = Annotated[Paging, Depends(_paging)]
FlowFilters = Annotated[Filters, Depends(_of_flows)]
"""Filters of training jobs and evaluations."""
