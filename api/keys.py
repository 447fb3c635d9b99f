"""The guard before every endpoint: which key a request carries, and whether its scope is enough (decision 17)."""

from sqlalchemy.exc import SQLAlchemyError
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from api.counting import SharedCounters
from api.errors import Forbidden, PlatformError, ServiceDown, Unauthorized, platform_error_response
from configs import keys
from configs.keys import ApiKey
from registry.acting import acting_key
from registry.known_keys import KnownKeys
from registry.repositories.statistics import REFUSED

READING = ("GET", "HEAD", "OPTIONS")
COMPUTING = (
    "/api/models/{model_id}/generate",
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/embeddings",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/tokenize",
    "/detokenize",
)
"""POST here computes an answer and changes nothing of the platform's: reading, too."""
OWN = ("/v1/responses/{rest:path}", "/v1/conversations", "/v1/conversations/{rest:path}")
"""Whatever is done here a key does to its own conversations, which no other key sees: reading, too (decision 36)."""
DECIDING = ("/api/models/{model_id}/promote",)
"""POST here changes which model others are given."""
GUARDING = ("/api/keys", "/api/keys/{key_id}", "/api/audit")
"""Whatever is done here: who may do what, and who did."""
POLICY_VIOLATION = 1008

_COMPUTING, _OWN, _DECIDING, _GUARDING = (
    [compile_path(path)[0] for path in paths] for paths in (COMPUTING, OWN, DECIDING, GUARDING)
)


class KeyGuard:
    """Refuses requests without a key of the scope that they need, whatever they are for, known or not."""

    def __init__(self, app: ASGIApp, known: KnownKeys, counters: SharedCounters) -> None:
        self.app = app
        self.known = known
        self.counters = counters

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 403."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        try:
            holder = self._holder(scope, await self._presented(scope))
        except PlatformError as objection:
            error = objection
        else:
            acting_key.set(holder.name)  # each request has a context of its own
            await self.app(scope, receive, send)
            return
        if scope["type"] == "http":
            await platform_error_response(error, scope["path"])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    async def _presented(self, scope: Scope) -> ApiKey | None:
        """Return whose key the request carries; raises `Unauthorized` if it carries none."""
        presented = _carried(scope)
        if presented is None:
            raise self._refused("missing", Unauthorized("A key is required: send it as `Authorization: Bearer KEY`."))
        try:
            return await self.known.holder_of(presented)
        except SQLAlchemyError as error:
            message = "The database does not answer, so no key can be looked up; try again in a few seconds."
            raise ServiceDown("database", message) from error

    def _holder(self, scope: Scope, holder: ApiKey | None) -> ApiKey:
        """Return the key; raises `Unauthorized` for an unknown one and `Forbidden` for one whose scope is too small."""
        if holder is None:
            # The key is not repeated: answers are logged more widely than keys may be.
            raise self._refused("unknown", Unauthorized("The key is not known here; ask the operator for one."))
        # A websocket's method says nothing of what it is for; there is none yet.
        needed = needed_scope(scope["method"], scope["path"]) if scope["type"] == "http" else keys.Scope.ADMIN
        if not holder.scope.covers(needed):
            message = f"The key {holder.name} has the scope {holder.scope}, but this needs {needed}."
            raise self._refused("scope", Forbidden(message, scope=holder.scope, needed=needed))
        return holder

    def _refused(self, reason: str, error: PlatformError) -> PlatformError:
        self.counters.add(REFUSED[reason])
        return error


def needed_scope(method: str, path: str) -> keys.Scope:
    """Return the scope that a request needs; what no rule names changes something."""
    if any(pattern.match(path) for pattern in _GUARDING):
        return keys.Scope.ADMIN
    if method in READING or any(pattern.match(path) for pattern in _OWN):
        return keys.Scope.READ
    if method == "POST" and any(pattern.match(path) for pattern in _COMPUTING):
        return keys.Scope.READ
    if method == "DELETE" or any(pattern.match(path) for pattern in _DECIDING):
        return keys.Scope.ADMIN
    return keys.Scope.WRITE


def _carried(scope: Scope) -> bytes | None:
    """Return the key that a request carries; none: it carries no key, or something else."""
    headers = dict(reversed(scope["headers"]))  # the first of several counts
    scheme, _, key = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer" and key.strip():
        return bytes(key.strip())
    # What Anthropic's SDK sends it by.
    return headers.get(b"x-api-key", b"").strip() or None
