"""Lets people into Prefect and MLflow with the platform's own keys, and its processes with a secret of theirs."""

import base64
import binascii
import hmac
import json
from collections.abc import Awaitable, Callable

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from configs.settings import SERVICES_USER, Settings
from registry.database import Database
from registry.guards.sites import POLICY_VIOLATION, SiteGuard
from registry.known_keys import KnownKeys

Admits = Callable[[bytes], Awaitable[bool]]


def auth_string(secret: str) -> str:
    """Return what Prefect calls the authentication string: user name and password of HTTP's basic scheme."""
    return f"{SERVICES_USER}:{secret}"


class LoginGuard:
    """Asks every request for the services' secret or an admitted key, as basic or bearer credentials.

    Prefect has a login of its own, with one password: there (`own_login`), a request with an admitted key goes on with
    that password in its place, and all others as they came, for Prefect to judge.
    """

    def __init__(self, app: ASGIApp, secret: str, admits: Admits, *, own_login: bool = False) -> None:
        """`admits` says whether a key is known and its scope is enough."""
        self.app = app
        self.secret = secret
        self.admits = admits
        self.own_login = own_login

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 with a prompt for a browser."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] == "websocket" and self.own_login:
            await self.app(scope, self._with_own_token(receive), send)
            return
        presented = _presented(scope)
        if presented is not None and await self._admitted(presented):
            await self.app(self._with_own_password(scope), receive, send)
        elif self.own_login:
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            message = "A key of the scope admin is required: as the password, with any user name, or as a bearer token."
            prompt = {"WWW-Authenticate": 'Basic realm="LLM Platform: any user name, and a key", charset="UTF-8"'}
            body = {"error": message, "code": "unauthorized"}
            await JSONResponse(body, 401, headers=prompt)(scope, receive, send)
        else:
            await send({"type": "websocket.close", "code": POLICY_VIOLATION})

    async def _admitted(self, presented: bytes) -> bool:
        return hmac.compare_digest(presented, self.secret.encode()) or await self.admits(presented)

    def _with_own_password(self, scope: Scope) -> Scope:
        own = b"Basic " + base64.b64encode(auth_string(self.secret).encode())
        others = [(name, value) for name, value in scope["headers"] if name != b"authorization"]
        return {**scope, "headers": [*others, (b"authorization", own)]}

    def _with_own_token(self, receive: Receive) -> Receive:
        """Prefect's websockets carry the credentials in their first message."""
        first = True

        async def receive_translated() -> Message:
            nonlocal first
            message = await receive()
            if message["type"] != "websocket.receive" or not first:
                return message
            first = False
            try:
                content = json.loads(message.get("text") or "")
                token = content["token"]
            except (ValueError, KeyError, TypeError):
                return message
            if isinstance(token, str) and await self._admitted(_password(token.encode())):
                message = {**message, "text": json.dumps(content | {"token": auth_string(self.secret)})}
            return message

        return receive_translated


def _presented(scope: Scope) -> bytes | None:
    """Return the key or password that a request carries."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            scheme, _, credentials = value.partition(b" ")
            if scheme.lower() == b"bearer":
                return credentials.strip() or None
            if scheme.lower() == b"basic":
                try:
                    return _password(base64.b64decode(credentials.strip(), validate=True)) or None
                except binascii.Error:
                    return None
    return None


def _password(credentials: bytes) -> bytes:
    """Return what follows the user name; all of it where there is none, as a person types it into Prefect's login."""
    user, separator, password = credentials.partition(b":")
    return password if separator else user


def guarded(app: ASGIApp, settings: Settings, *, own_login: bool = False) -> ASGIApp:
    """Return the application of Prefect or MLflow as the platform serves it: our hosts, our pages, and our keys if any.

    `own_login`: it asks for the services' password itself.
    """
    if settings.services_secret is not None:
        keys = KnownKeys(Database(settings.platform_database_url), settings.known_keys)
        app = LoginGuard(app, settings.services_secret, keys.admits_admin, own_login=own_login)
    return SiteGuard(app, settings.served_hosts)
