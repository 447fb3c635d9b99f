"""The audit trail: every change that is asked for is written down before it is made, and finished with its answer."""

import json
from contextlib import suppress

from sqlalchemy.exc import SQLAlchemyError
from starlette.concurrency import run_in_threadpool
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api.errors import ServiceDown, platform_error_response
from api.keys import READING, needed_scope
from configs.keys import Scope as KeyScope
from registry.database import Database
from registry.repositories.audit import AuditRepository

LARGEST_ANSWER = 64 * 1024
"""An answer that is larger, in bytes, is not looked into for the id of what was made."""
LONGEST_RESOURCE = 100
LONGEST_PATH = 2000


class AuditTrail:
    """Writes down who asks for which change. One that can't be written down is not made.

    A request that is refused has changed nothing, and leaves no entry. One without an answer keeps its entry, without
    a status: the process may have ended in the middle of the change.
    """

    def __init__(self, app: ASGIApp, database: Database) -> None:
        self.app = app
        self.database = database

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 503 if it can't be written down."""
        if scope["type"] != "http" or not changes_something(scope["method"], scope["path"]):
            await self.app(scope, receive, send)
            return
        try:
            entry_id = await run_in_threadpool(self._begin, scope)
        except SQLAlchemyError:
            message = (
                "The database takes no entry in the audit log, so nothing was changed; try again in a few seconds."
            )
            await platform_error_response(ServiceDown("database", message), scope["path"])(scope, receive, send)
            return
        status, answer = 0, b""

        async def noted(message: Message) -> None:
            nonlocal status, answer
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                if len(answer) <= LARGEST_ANSWER:
                    answer += message.get("body", b"")
                if not message.get("more_body", False):
                    # Before its last piece: who has the answer finds the finished entry.
                    await self._end(entry_id, status, answer)
            await send(message)

        await self.app(scope, receive, noted)

    def _begin(self, scope: Scope) -> int:
        client = scope.get("client")
        with self.database.transaction() as session:
            return AuditRepository(session).begin(scope["method"], _written(scope), client[0] if client else None)

    async def _end(self, entry_id: int, status: int, answer: bytes) -> None:
        # The change is made: that its entry can't be finished must not turn the answer into an error.
        with suppress(SQLAlchemyError):
            await run_in_threadpool(self._finish, entry_id, status, answer)

    def _finish(self, entry_id: int, status: int, answer: bytes) -> None:
        with self.database.transaction() as session:
            entries = AuditRepository(session)
            if 400 <= status < 500:
                entries.withdraw(entry_id)
            else:
                entries.end(entry_id, status, _resource(answer))


def changes_something(method: str, path: str) -> bool:
    """Return whether a request may change something, as its key's scope says."""
    return method not in READING and needed_scope(method, path) is not KeyScope.READ


def _written(scope: Scope) -> str:
    """Return the path as it was sent: decoded it may hold what a database does not take."""
    raw: bytes = scope.get("raw_path") or scope["path"].encode()
    return raw.decode("ascii", "backslashreplace")[:LONGEST_PATH]


def _resource(answer: bytes) -> str | None:
    """Return the id that a JSON answer gives, as text."""
    if len(answer) > LARGEST_ANSWER:
        return None
    try:
        body = json.loads(answer)
    except ValueError:
        return None
    found = body.get("id") if isinstance(body, dict) else None
    return str(found)[:LONGEST_RESOURCE] if isinstance(found, int | str) else None
