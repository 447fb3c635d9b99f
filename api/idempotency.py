"""`Idempotency-Key`: the same key and body gets the first answer, the same key with another body a 409."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from api.errors import Conflict
from registry.database import Database
from registry.repositories.idempotency import IdempotencyRepository

Answer = dict[str, Any]


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """What identifies a repeated request: where it went, its key, and its body."""

    scope: str
    key: str
    body_hash: str


@dataclass(frozen=True, slots=True)
class Created:
    """A created resource: its id and the answer to the request that made it."""

    resource_id: int
    answer: Answer


IdempotencyKey = Annotated[
    str | None, Header(min_length=1, max_length=255, description="Makes a repeated request return the first answer")
]


async def _read(request: Request, idempotency_key: IdempotencyKey = None) -> IdempotentRequest | None:
    if idempotency_key is None:
        return None
    body = await request.body()
    scope = f"{request.method} {request.url.path}"
    return IdempotentRequest(scope, idempotency_key, hashlib.sha256(_canonical(body)).hexdigest())


def _canonical(body: bytes) -> bytes:
    """Return the body in the one spelling of its JSON; one that is no JSON, which the endpoint refuses, as it is."""
    try:
        return json.dumps(json.loads(body), sort_keys=True).encode()
    except ValueError:
        return body


OnceOnly = Annotated[IdempotentRequest | None, Depends(_read)]


def create_once(
    database: Database, request: IdempotentRequest | None, create: Callable[[Session], tuple[int, Answer]]
) -> Created:
    """Run `create` in one transaction with the memory of its answer, or return what the same key made before.

    Raises `Conflict` if the key was used with another body.
    """
    if request is None:
        with database.transaction() as session:
            return Created(*create(session))
    try:
        with database.transaction() as session:
            known = _known(session, request)
            if known is not None:
                return known
            resource_id, answer = create(session)
            IdempotencyRepository(session).add(request.scope, request.key, request.body_hash, resource_id, answer)
            return Created(resource_id, answer)
    except IntegrityError:
        # A concurrent request with this key was first (possible on PostgreSQL); its answer is ours.
        with database.reading() as session:
            known = _known(session, request)
        if known is None:
            raise
        return known


def _known(session: Session, request: IdempotentRequest) -> Created | None:
    record = IdempotencyRepository(session).get(request.scope, request.key)
    if record is None:
        return None
    if record.body_hash != request.body_hash:
        raise Conflict(f"Idempotency-Key {request.key!r} was used with another body; use a new key for a new request.")
    return Created(record.resource_id, record.response)
