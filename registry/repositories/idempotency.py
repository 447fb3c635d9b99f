"""First answers to creating requests that carried an `Idempotency-Key`."""

from typing import Any

from sqlalchemy import delete
from sqlalchemy.orm import Session

from registry.tables import IdempotencyKey


def forget(session: Session, scope: str, resource_id: int) -> None:
    """Delete the memory of the request that made a resource; `scope` is a pattern with `%`."""
    asked = IdempotencyKey.scope.like(scope) & (IdempotencyKey.resource_id == resource_id)
    session.execute(delete(IdempotencyKey).where(asked))


class IdempotencyRepository:
    """Remembered answers, by scope and key."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, scope: str, key: str) -> IdempotencyKey | None:
        """Return what was answered to this key, or None."""
        return self.session.get(IdempotencyKey, (scope, key))

    def add(self, scope: str, key: str, body_hash: str, resource_id: int, response: dict[str, Any]) -> None:
        """Remember an answer; `sqlalchemy.exc.IntegrityError` when a concurrent request was first."""
        self.session.add(
            IdempotencyKey(scope=scope, key=key, body_hash=body_hash, resource_id=resource_id, response=response)
        )
        self.session.flush()
