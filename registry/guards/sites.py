"""Refuses requests that a web page of another site makes: by a foreign `Host`, or by where their page came from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FRAMES = ("iframe", "frame", "embed", "object")
"""What a page says that it loads another page into (`Sec-Fetch-Dest`)."""
POLICY_VIOLATION = 1008


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is not passed on."""

    status: int
    code: str
    message: str


def plain_answer(refusal: Refusal, _path: str) -> ASGIApp:
    """Return the answer in the platform's shape of errors."""
    return JSONResponse({"error": refusal.message, "code": refusal.code}, refusal.status)


class SiteGuard:
    """Passes on what asks for one of our hosts, and comes from our own pages, an allowed origin, or no page at all.

    Browsers tell where a request comes from, in headers that pages can't set; programs tell nothing, and pass.
    Another site's page may still ask for what changes nothing, but the server behind is not told its origin: so no
    CORS of that server's own lets the page read the answer.
    """

    def __init__(
        self,
        app: ASGIApp,
        allowed_hosts: Sequence[str],
        allowed_origins: Sequence[str] | None = None,
        answer: Callable[[Refusal, str], ASGIApp] = plain_answer,
    ) -> None:
        """`allowed_hosts` are names without ports; `allowed_origins` are None where no other site can be let in."""
        self.app = app
        self.allowed_hosts = {host.lower() for host in allowed_hosts}
        self.any_host = "*" in self.allowed_hosts
        self.allowed_origins = allowed_origins
        self.answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 400 for a foreign host and 403 for another site's page."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._foreign_host(scope) or self._foreign_site(scope)
        if refusal is None:
            await self.app(self._without_foreign_origin(scope), receive, send)
        elif scope["type"] == "http":
            await self.answer(refusal, scope["path"])(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    def _foreign_host(self, scope: Scope) -> Refusal | None:
        hosts = _values(scope, b"host")
        if self.any_host or (hosts and all(host_name(host) in self.allowed_hosts for host in hosts)):
            return None
        shown = ", ".join(map(repr, hosts)) or "''"
        message = f"Host {shown} is not served here; add it to LLM_PLATFORM_ALLOWED_HOSTS if it should be."
        return Refusal(400, "foreign_host", message)

    def _foreign_site(self, scope: Scope) -> Refusal | None:
        if self._at_home(scope):
            return None
        framed = any(kind in FRAMES for kind in _values(scope, b"sec-fetch-dest"))
        if scope["type"] == "http" and scope["method"] in SAFE_METHODS and not framed:
            return None
        page = ", ".join(_values(scope, b"origin")) or "another site"
        message = f"This was asked by a page of {page[:200]!r}, and pages of other sites may not change anything here"
        if self.allowed_origins is not None:
            message += "; name the page's origin in LLM_PLATFORM_ALLOWED_ORIGINS if it should"
        return Refusal(403, "foreign_origin", f"{message}.")

    def _at_home(self, scope: Scope) -> bool:
        """Return whether no page made the request, or one that may."""
        origins, sites = _values(scope, b"origin"), _values(scope, b"sec-fetch-site")
        if origins and all(self._may_ask(origin, scope) for origin in origins):
            return True
        if sites:
            # A page without a referrer is of the origin `null` to its own server, too. What a person asks for by hand
            # comes from no site, and from no page.
            return all(site == "same-origin" or (site == "none" and not origins) for site in sites)
        # Also of the origin `null`: sandboxed frames, files, redirects across sites.
        return not origins

    def _may_ask(self, origin: str, scope: Scope) -> bool:
        """Return whether an origin is allowed, or this very server by any of its names."""
        if self.allowed_origins is not None and origin in self.allowed_origins:
            return True
        page, hosts = urlsplit(origin).netloc, _values(scope, b"host")
        if page in hosts:
            return True
        # Not by the scheme: before a proxy with TLS it is another one.
        named = bool(page) and host_name(page) in self.allowed_hosts
        return named and all(_port(page) == _port(host) for host in hosts)

    def _without_foreign_origin(self, scope: Scope) -> Scope:
        origins = _values(scope, b"origin")
        if not origins or all(self._may_ask(origin, scope) for origin in origins):
            return scope
        return {**scope, "headers": [(name, value) for name, value in scope["headers"] if name != b"origin"]}


def host_name(host: str) -> str:
    """Return the host without its port: `[::1]:5000` → `::1`."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _port(host: str) -> str:
    return host.rpartition("]")[2].partition(":")[2]


def _values(scope: Scope, wanted: bytes) -> list[str]:
    return [value.decode("latin-1") for name, value in scope["headers"] if name == wanted]
