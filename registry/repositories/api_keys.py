"""Queries on API keys: those made while the platform runs, and the revocations of any."""

from collections.abc import Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from configs.keys import ApiKey, Scope
from registry.clock import utcnow
from registry.tables import StoredKey


class ApiKeyRepository:
    """Hashes of keys. One of the settings has a row only once it is revoked."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def all(self) -> Sequence[StoredKey]:
        """Return every row, the oldest first."""
        return self.session.scalars(select(StoredKey).order_by(StoredKey.created_at, StoredKey.digest)).all()

    def known(self, configured: Sequence[ApiKey]) -> Sequence[ApiKey]:
        """Return the keys that are let in: the configured ones and the stored ones, without those revoked."""
        rows = self.all()
        keys = {key.digest: key for key in configured}
        keys |= {row.digest: ApiKey(row.name, Scope(row.scope), row.digest) for row in rows}
        revoked = {row.digest for row in rows if row.revoked_at is not None}
        return [key for digest, key in keys.items() if digest not in revoked]

    def add(self, key: ApiKey) -> StoredKey:
        """Insert a key."""
        row = StoredKey(digest=key.digest, name=key.name, scope=str(key.scope))
        self.session.add(row)
        self.session.flush()
        return row

    def revoke(self, key: ApiKey, by: str | None) -> StoredKey:
        """Let a key in no more, whether it is of the settings or was stored."""
        row = self.session.get(StoredKey, key.digest) or self.add(key)
        row.revoked_at, row.revoked_by = utcnow(), by
        self.session.flush()
        return row
