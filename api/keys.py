"""The guard before every endpoint: which key a request carries, and whether its scope is enough (decision 17)."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter
from starlette.routing import compile_path
from starlette.types import ASGIApp, Receive, Scope, Send

from api.errors import Forbidden, PlatformError, Unauthorized, platform_error_response
from configs import keys
from configs.keys import ApiKey

READING = ("GET", "HEAD", "OPTIONS")
COMPUTING = ("/api/models/{model_id}/generate", "/v1/completions", "/v1/chat/completions", "/v1/embeddings")
"""POST here computes an answer and changes nothing: reading, too."""
DECIDING = ("/api/models/{model_id}/promote",)
"""POST here changes which model others are given."""
REASONS = ("missing", "unknown", "scope")
POLICY_VIOLATION = 1008

_COMPUTING, _DECIDING = ([compile_path(path)[0] for path in paths] for paths in (COMPUTING, DECIDING))


class Refusals:
    """Counts what the guard refuses, for Prometheus."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._counter = Counter(
            "llm_platform_refused_requests", "Requests without a sufficient key", ["reason"], registry=self.registry
        )
        for reason in REASONS:
            self._counter.labels(reason)  # so that each is there, as 0, before the first

    def note(self, reason: str) -> None:
        """Count one refusal."""
        self._counter.labels(reason).inc()


class KeyGuard:
    """Refuses requests without a key of the scope that they need, whatever they are for, known or not."""

    def __init__(self, app: ASGIApp, known: Sequence[ApiKey], refusals: Refusals) -> None:
        self.app = app
        self.known = known
        self.refusals = refusals

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 403."""
        error = None if scope["type"] == "lifespan" else self._objection(scope)
        if error is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            await platform_error_response(error, scope["path"])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    def _objection(self, scope: Scope) -> PlatformError | None:
        presented = _bearer(scope)
        if presented is None:
            return self._refused("missing", Unauthorized("A key is required: send it as `Authorization: Bearer KEY`."))
        holder = keys.holder_of(self.known, presented)
        if holder is None:
            # The key is not repeated: answers are logged more widely than keys may be.
            return self._refused("unknown", Unauthorized("The key is not known here; ask the operator for one."))
        # A websocket's method says nothing of what it is for; there is none yet.
        needed = needed_scope(scope["method"], scope["path"]) if scope["type"] == "http" else keys.Scope.ADMIN
        if not holder.scope.covers(needed):
            message = f"The key {holder.name} has the scope {holder.scope}, but this needs {needed}."
            return self._refused("scope", Forbidden(message, scope=holder.scope, needed=needed))
        return None

    def _refused(self, reason: str, error: PlatformError) -> PlatformError:
        self.refusals.note(reason)
        return error


def needed_scope(method: str, path: str) -> keys.Scope:
    """Return the scope that a request needs; what no rule names changes something."""
    if method in READING:
        return keys.Scope.READ
    if method == "POST" and any(pattern.match(path) for pattern in _COMPUTING):
        return keys.Scope.READ
    if method == "DELETE" or any(pattern.match(path) for pattern in _DECIDING):
        return keys.Scope.ADMIN
    return keys.Scope.WRITE


def _bearer(scope: Scope) -> bytes | None:
    """Return the key that a request carries; none: it carries no key, or something else."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, key = value.partition(b" ")
            return key.strip() or None if scheme.lower() == b"bearer" else None
    return None
