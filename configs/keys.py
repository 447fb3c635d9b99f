"""API keys as they are configured: the name, the scope and the hash of each; only its holder has the key itself."""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

KEY_BYTES = 32
KEY_PREFIX = "llmp_"
"""Makes a key that was published by mistake easy to find."""
NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Scope(StrEnum):
    """What a key may do; each scope may do what those before it may."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    def covers(self, needed: "Scope") -> bool:
        """Whether a key of this scope may do what needs the other."""
        order = list(Scope)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is configured; two of one name are one holder's old and new key."""

    name: str
    scope: Scope
    digest: str
    """SHA-256 of the key, in hex."""

    def __str__(self) -> str:
        return f"{self.name}:{self.scope}:{self.digest}"


def new_key(name: str, scope: Scope) -> tuple[str, ApiKey]:
    """Return a new random key, which nothing else keeps, and how it is configured."""
    key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return key, ApiKey(name, scope, _digest(key.encode()))


def parse_keys(text: str) -> tuple[ApiKey, ...]:
    """Return the keys of `NAME:SCOPE:SHA256,…`.

    Raises ValueError for an entry that is none, by its position: it may be a key in clear text, and is not repeated.
    """
    keys = tuple(_parsed(number, entry.strip()) for number, entry in enumerate(text.split(","), start=1))
    for number, key in enumerate(keys, start=1):
        if any(key.digest == earlier.digest for earlier in keys[: number - 1]):
            raise ValueError(f"entry {number} ({key.name}) has the hash of an earlier one; each key is given once")
    return keys


def holder_of(keys: Sequence[ApiKey], presented: bytes) -> ApiKey | None:
    """Return which of the keys was presented; the time it takes does not depend on which, or on how much is right."""
    digest, found = _digest(presented), None
    for key in keys:
        if hmac.compare_digest(key.digest, digest):
            found = key
    return found


def _digest(key: bytes) -> str:
    # Keys are 256 random bits: nobody guesses one from its hash, however quick the hash, so a slow one with a salt,
    # as passwords need it, would only slow down every request.
    return hashlib.sha256(key).hexdigest()


def _parsed(number: int, entry: str) -> ApiKey:
    name, scope, digest = [*entry.split(":"), "", ""][:3]
    if entry.count(":") != 2 or not NAME.fullmatch(name) or not _DIGEST.fullmatch(digest):
        raise ValueError(
            f"entry {number} is not NAME:SCOPE:SHA256 with 64 lower-case hex digits; `llm-platform keys new` prints one"
        )
    if scope not in list(Scope):
        raise ValueError(f"entry {number} ({name}) has the scope {scope!r}, but there are {', '.join(Scope)}")
    return ApiKey(name, Scope(scope), digest)
