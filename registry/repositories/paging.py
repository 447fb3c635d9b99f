"""Lists in id order or its reverse, cut by `limit` and `after`."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from registry.tables import AuditEntry, Dataset, Evaluation, JobEvent, Model, TrainingJob, Webhook, WebhookDelivery

Row = TypeVar("Row", Model, TrainingJob, Evaluation, Dataset, JobEvent, Webhook, WebhookDelivery, AuditEntry)


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
