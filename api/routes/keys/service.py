"""What the key endpoints do: list, make and revoke keys."""

from collections.abc import Sequence

from sqlalchemy.orm import Session

from api.errors import Conflict, NotFound
from api.idempotency import Answer, IdempotentRequest, create_once
from api.platform import Platform
from api.routes.keys.schemas import KeyCreate, KeyCreated, KeySummary
from configs.keys import ApiKey, Scope, new_key
from registry.acting import name_of_acting_key
from registry.repositories.api_keys import ApiKeyRepository
from registry.tables import StoredKey

ID_LENGTH = 16
MADE = "Key made; it is shown this once. Its holder sends it as `Authorization: Bearer KEY`"
SHOWN_BEFORE = "Key made before by this Idempotency-Key; it was shown in the first answer alone"


def list_keys(platform: Platform) -> list[KeySummary]:
    """Return every key that is let in or was revoked."""
    with platform.database.reading() as session:
        rows = {row.digest: row for row in ApiKeyRepository(session).all()}
    configured = platform.settings.known_keys
    digests = {key.digest for key in configured}
    of_settings = [_summary(key, rows.get(key.digest), of_settings=True) for key in configured]
    return of_settings + [_summary(_key(row), row) for row in rows.values() if row.digest not in digests]


def make_key(platform: Platform, body: KeyCreate, once: IdempotentRequest | None) -> KeyCreated:
    """Make a key; raises `Conflict` on a platform that asks for none."""
    _require_keys(platform)
    key, made = new_key(body.name, Scope(body.scope))

    def insert(session: Session) -> tuple[int, Answer]:
        summary = _summary(made, ApiKeyRepository(session).add(made))
        # The answer is remembered without the key.
        return 0, summary.model_dump(mode="json")

    answer = create_once(platform.database, once, insert).answer
    platform.keys.expire()
    is_new = answer["id"] == _id(made)
    return KeyCreated(**answer, key=key if is_new else None, message=MADE if is_new else SHOWN_BEFORE)


def revoke_key(platform: Platform, key_id: str) -> KeySummary:
    """Let a key in no more; raises `NotFound`, and `Conflict` for the last one that could make others."""
    _require_keys(platform)
    configured = platform.settings.known_keys
    with platform.database.transaction() as session:
        stored = ApiKeyRepository(session)
        known = stored.known(configured)
        key = next((one for one in known if _id(one) == key_id), None)
        if key is None:
            raise NotFound(f"There is no key with the id {key_id!r} to revoke; GET /api/keys lists those there are.")
        if not _another_admin(known, key):
            raise Conflict(f"Key {key_id} ({key.name}) is the only one of the scope admin; make another one first.")
        row = stored.revoke(key, name_of_acting_key())
        revoked = _summary(key, row, of_settings=key in configured)
    platform.keys.expire()
    return revoked


def _require_keys(platform: Platform) -> None:
    if not platform.settings.known_keys:
        raise Conflict("This platform asks for no keys: set LLM_PLATFORM_API_KEYS (`llm-platform keys new`) to begin.")


def _another_admin(known: Sequence[ApiKey], key: ApiKey) -> bool:
    return key.scope is not Scope.ADMIN or any(one.scope is Scope.ADMIN for one in known if one.digest != key.digest)


def _id(key: ApiKey) -> str:
    return key.digest[:ID_LENGTH]


def _key(row: StoredKey) -> ApiKey:
    return ApiKey(row.name, Scope(row.scope), row.digest)


def _summary(key: ApiKey, row: StoredKey | None, *, of_settings: bool = False) -> KeySummary:
    made_here = row is not None and not of_settings
    return KeySummary(
        id=_id(key),
        name=key.name,
        scope=key.scope,
        source="settings" if of_settings else "api",
        created_at=row.created_at if row is not None and made_here else None,
        created_by=row.created_by if row is not None and made_here else None,
        revoked_at=row.revoked_at if row is not None else None,
        revoked_by=row.revoked_by if row is not None else None,
    )
