"""Key endpoints, for keys of the scope admin."""

from typing import Annotated

from fastapi import APIRouter, Path, status

from api.idempotency import OnceOnly
from api.platform import CurrentPlatform
from api.routes.keys import service
from api.routes.keys.schemas import KeyCreate, KeyCreated, KeyList, KeySummary

router = APIRouter(prefix="/keys", tags=["keys"])


@router.get("")
def list_keys(platform: CurrentPlatform) -> KeyList:
    """Get all keys, those of the settings and those made here; none on a platform that asks for no key."""
    return KeyList(keys=service.list_keys(platform))


@router.post("", status_code=status.HTTP_201_CREATED)
def make_key(platform: CurrentPlatform, body: KeyCreate, once: OnceOnly) -> KeyCreated:
    """Make a key; only this answer shows it, and every process lets it in within two seconds."""
    return service.make_key(platform, body, once)


@router.delete("/{key_id}")
def revoke_key(platform: CurrentPlatform, key_id: Annotated[str, Path(description="Id of a key")]) -> KeySummary:
    """Revoke a key, of the settings or made here: within two seconds no process lets it in."""
    return service.revoke_key(platform, key_id)
