"""Lists in id order or its reverse, cut by `limit` and `after`, and filtered by what every kind of record has."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, func, select
from sqlalchemy.orm import Session

from registry.tables import AuditEntry, Dataset, Evaluation, JobEvent, Model, TrainingJob, Webhook, WebhookDelivery

Row = TypeVar("Row", Model, TrainingJob, Evaluation, Dataset, JobEvent, Webhook, WebhookDelivery, AuditEntry)
Filtered = Model | TrainingJob | Evaluation | Dataset


@dataclass(frozen=True, slots=True)
class Filters:
    """Which records a list is to have; None asks for nothing."""

    status: str | None = None
    name: str | None = None
    model_id: int | None = None
    created_after: datetime | None = None
    """A moment in naive UTC; what was created at it is left out."""


EVERYTHING = Filters()


def page(
    session: Session,
    table: type[Row],
    limit: int | None,
    after: int | None,
    *conditions: ColumnElement[bool],
    newest_first: bool = False,
) -> Sequence[Row]:
    """Return the rows that come after the id `after`, at most `limit` of them, in id order or in its reverse."""
    query = select(table).where(*conditions).order_by(table.id.desc() if newest_first else table.id)
    if after is not None:
        query = query.where(table.id < after if newest_first else table.id > after)
    if limit is not None:
        query = query.limit(limit)
    return session.scalars(query).all()


def conditions_of(table: type[Filtered], filters: Filters) -> list[ColumnElement[bool]]:
    """Return the conditions that filters stand for; a table without a filter's column must not be asked for it."""
    conditions: list[ColumnElement[bool]] = []
    if filters.status is not None:
        conditions.append(table.status == filters.status)
    if filters.name is not None:
        conditions.append(_name(table) == filters.name)
    if filters.model_id is not None:
        assert issubclass(table, TrainingJob | Evaluation)
        conditions.append(table.model_id == filters.model_id)
    if filters.created_after is not None:
        # Records are created in the order of their ids, but for those of one moment or of a clock that was set back:
        # the lowest id spares the reading of all that is older. (`+ 0`: or it would be looked for in id order.)
        later: Any = select(func.min(table.id + 0)).where(table.created_at > filters.created_after)
        conditions += [table.created_at > filters.created_after, table.id >= later.scalar_subquery()]
    return conditions


def _name(table: type[Filtered]) -> Any:
    if issubclass(table, TrainingJob):
        return table.job_name
    return table.eval_name if issubclass(table, Evaluation) else table.name
