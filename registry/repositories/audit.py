"""Queries on the audit log."""

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from registry.repositories.paging import page
from registry.tables import AuditEntry


class AuditRepository:
    """Who changed what, through the API."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def begin(self, method: str, path: str, client: str | None) -> int:
        """Write down that a change was asked for; returns the entry's id."""
        entry = AuditEntry(method=method, path=path, client=client)
        self.session.add(entry)
        self.session.flush()
        return entry.id

    def end(self, entry_id: int, status: int, resource: str | None) -> None:
        """Write down how it was answered."""
        answered = update(AuditEntry).where(AuditEntry.id == entry_id)
        self.session.execute(answered.values(status=status, resource=resource))

    def withdraw(self, entry_id: int) -> None:
        """Forget a request that was refused: it changed nothing."""
        self.session.execute(delete(AuditEntry).where(AuditEntry.id == entry_id))

    def list(
        self,
        limit: int,
        after: int | None,
        *,
        key: str | None = None,
        method: str | None = None,
        path: str | None = None,
        created_after: datetime | None = None,
        newest_first: bool = False,
    ) -> Sequence[AuditEntry]:
        """Return entries in id order or its reverse: all, or those of a key, a method, under a path, after a moment."""
        conditions = []
        if key is not None:
            conditions.append(AuditEntry.created_by == key)
        if method is not None:
            conditions.append(AuditEntry.method == method)
        if path is not None:
            conditions.append(AuditEntry.path.startswith(path, autoescape=True))
        if created_after is not None:
            conditions.append(AuditEntry.created_at > created_after)
        return page(self.session, AuditEntry, limit, after, *conditions, newest_first=newest_first)
