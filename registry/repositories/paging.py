"""Lists in id order, cut by `limit` and `after`."""

from collections.abc import Sequence
from typing import TypeVar

from sqlalchemy import ColumnElement, select
from sqlalchemy.orm import Session

from registry.tables import Dataset, Evaluation, Model, TrainingJob

Row = TypeVar("Row", Model, TrainingJob, Evaluation, Dataset)


def page(
    session: Session, table: type[Row], limit: int | None, after: int | None, *conditions: ColumnElement[bool]
) -> Sequence[Row]:
    """Return rows with an id greater than `after`, at most `limit` of them, in id order."""
    query = select(table).where(*conditions).order_by(table.id)
    if after is not None:
        query = query.where(table.id > after)
    if limit is not None:
        query = query.limit(limit)
    return session.scalars(query).all()
