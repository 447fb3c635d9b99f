"""Prefect's event stream: says when a flow run changes its state, so that nobody has to ask Prefect all the time."""

import asyncio
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

RETRY_SECONDS = 1.0
SILENT_SECONDS = 30.0
"""A server that stops answering pings for this long is taken for gone."""
FLOW_RUN_EVENTS = "prefect.flow-run."
_LONG_AHEAD = timedelta(days=3650)

_logger = logging.getLogger(__name__)


class RunEvents:
    """Listens for changes of flow runs' states, and connects again whenever the connection is lost.

    An event can arrive a moment before its change is committed, and events that nobody listened to are lost: whoever
    is called must look again shortly after, and now and then without having been called.
    """

    def __init__(
        self, prefect_api_url: str, on_change: Callable[[str | None], None], login: tuple[str, str] | None = None
    ) -> None:
        """`on_change` gets a run's new type of state, such as SCHEDULED; and None once a connection is made.

        `login` is a user name and a password, for a server that asks for them.
        """
        self._url = "ws" + prefect_api_url.removeprefix("http") + "/events/out"
        self._on_change = on_change
        self._auth_string = None if login is None else ":".join(login)
        self.listening = False
        """Whether the connection stands now."""

    async def run(self) -> None:
        """Listen until cancelled; what goes wrong is logged once and tried again."""
        failing = False
        while True:
            try:
                async with connect(
                    self._url,
                    subprotocols=[Subprotocol("prefect")],
                    proxy=None,
                    ping_interval=SILENT_SECONDS,
                    ping_timeout=SILENT_SECONDS,
                    max_size=None,
                ) as socket:
                    await self._subscribe(socket)
                    self.listening, failing = True, False
                    self._on_change(None)
                    async for message in socket:
                        self._on_change(json.loads(message)["event"]["resource"].get("prefect.state-type"))
            except Exception as error:  # noqa: BLE001 - the edge of a task that must not end: said, and tried again
                if not failing:
                    _logger.info("Prefect's events can't be listened to, still trying: %s", error)
                failing = True
            finally:
                self.listening = False
            await asyncio.sleep(RETRY_SECONDS)

    async def _subscribe(self, socket: ClientConnection) -> None:
        """Introduce this client and say what it wants to hear; raises `SubscriptionRefused`."""
        await socket.send(json.dumps({"type": "auth", "token": self._auth_string}))
        answer = json.loads(await socket.recv())
        if answer.get("type") != "auth_success":
            raise SubscriptionRefused(f"it answered {answer.get('type')!r} ({answer.get('reason', 'no reason')})")
        now = datetime.now(UTC)
        wanted = {
            "event": {"prefix": [FLOW_RUN_EVENTS]},
            "occurred": {"since": now.isoformat(), "until": (now + _LONG_AHEAD).isoformat()},
        }
        await socket.send(json.dumps({"type": "filter", "backfill": False, "filter": wanted}))


class SubscriptionRefused(Exception):
    """Prefect does not let this client listen."""
