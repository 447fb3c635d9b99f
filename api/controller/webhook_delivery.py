"""Sends webhooks that are due, and writes down how it went, until each is delivered or given up."""

import asyncio
import logging
import random
from collections.abc import Sequence
from datetime import datetime, timedelta

import httpx
from sqlalchemy.exc import SQLAlchemyError

from api.controller.background import Background, raise_all
from api.webhooks.addresses import Resolver, TargetUnreachable, host_of, parsed
from api.webhooks.messages import body_of, headers_of
from configs.settings import Settings
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.webhooks import WebhookRepository
from registry.tables import Webhook, WebhookDelivery

logger = logging.getLogger(__name__)

LONGEST_PAUSE_SECONDS = 6 * 3600.0
LONGEST_ERROR = 500
# An address that does not answer leaves time for the next one.
CONNECT_SHARE = 1 / 3


class WebhookSender:
    """Sends to all targets at once, to each of them one message at a time, the oldest first."""

    def __init__(self, settings: Settings, database: Database) -> None:
        self._settings = settings
        self._database = database
        tls = httpx.create_ssl_context(trust_env=False)
        if settings.webhook_ca_file is not None:
            tls.load_verify_locations(settings.webhook_ca_file)
        # A bare transport: no redirects, cookies, proxies. And no connection is kept, as the next request to the same
        # address may be for another name, which that connection's certificate was not checked for.
        self._transport = httpx.AsyncHTTPTransport(
            verify=tls, trust_env=False, limits=httpx.Limits(max_connections=None, max_keepalive_connections=0)
        )
        self._resolver = Resolver(allow_internal=settings.webhook_allow_internal)
        self._sending = Background[int]()

    async def close(self) -> None:
        """End what is being sent (its next attempt is in the table), and close the connections."""
        await self._sending.close()
        await self._transport.aclose()
        self._resolver.close()

    async def run_pass(self) -> None:
        """Begin to send what is due, beside this; raises what has ended attempts."""
        errors = self._sending.collect()
        # What is read of a target that is busy now may be out of date, even if it is not busy any more by then.
        busy = self._sending.keys
        for delivery, webhook in await asyncio.to_thread(self._due):
            if webhook.id not in busy:
                self._sending.start(webhook.id, self._attempt(delivery, webhook))
        raise_all(errors, "attempts")

    async def _attempt(self, delivery: WebhookDelivery, webhook: Webhook) -> None:
        """Send a message once.

        The next attempt is in the table before this one begins: a database that can be read and not written, or a
        process that dies in between, makes nobody get the same message without a pause.
        """
        next_attempt_at = utcnow() + self._pause_after(delivery.attempts)
        try:
            if await asyncio.to_thread(self._begin, delivery.id, delivery.attempts, next_attempt_at):
                answer_status, error = await self._sent(delivery, webhook)
                is_last = delivery.attempts + 1 >= self._settings.webhook_attempts or answer_status == httpx.codes.GONE
                if error is not None:
                    then = "given up" if is_last else f"again at {next_attempt_at:%Y-%m-%d %H:%M:%S} UTC"
                    logger.warning("webhook %d: job %d not sent (%s); %s", webhook.id, delivery.job_id, error, then)
                await asyncio.to_thread(self._end, delivery.id, answer_status, error, is_last=is_last)
        except SQLAlchemyError as problem:
            logger.warning("webhook %d: what was sent can't be written down: %s", webhook.id, problem)

    async def _sent(self, delivery: WebhookDelivery, webhook: Webhook) -> tuple[int | None, str | None]:
        """Send a message once; return the answer's status, and what is wrong with it or kept it from coming."""
        body = body_of(delivery)
        headers = headers_of(delivery, webhook, body, utcnow())
        try:
            async with asyncio.timeout(self._settings.webhook_timeout_seconds):
                answer_status = await self._post(parsed(webhook.url), headers, body)
        except TargetUnreachable as error:
            return None, str(error)[:LONGEST_ERROR]
        except TimeoutError:
            return None, f"no answer within {self._settings.webhook_timeout_seconds:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:  # a TLS alert comes as an OSError
            return None, (str(error) or type(error).__name__)[:LONGEST_ERROR]
        return answer_status, None if httpx.codes.is_success(answer_status) else f"it answered {answer_status}"

    async def _post(self, target: httpx.URL, headers: dict[str, str], body: bytes) -> int:
        """Return the status that the target answers; its body is not read.

        The connection goes to an address that was looked at, not to the name, which may have another one by then.
        """
        unreachable: httpx.TransportError | None = None
        for address in await self._resolver.addresses_of(target):
            request = httpx.Request(
                "POST",
                target.copy_with(host=address),
                headers=headers | {"host": target.netloc.decode("ascii")},
                content=body,
                extensions={
                    "sni_hostname": host_of(target),
                    "timeout": {"connect": self._settings.webhook_timeout_seconds * CONNECT_SHARE},
                },
            )
            try:
                response = await self._transport.handle_async_request(request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                unreachable = error
                continue
            await response.aclose()
            return response.status_code
        raise unreachable or TargetUnreachable(f"{host_of(target)} has no address")

    def _pause_after(self, attempts: int) -> timedelta:
        """Return how long after an attempt that comes after so many others the next one begins."""
        pause = min(self._settings.webhook_retry_seconds * 2.0**attempts, LONGEST_PAUSE_SECONDS)
        # Spread, so that what failed together does not come back together.
        return timedelta(seconds=pause * random.uniform(0.75, 1.25))

    def _due(self) -> Sequence[tuple[WebhookDelivery, Webhook]]:
        with self._database.reading() as session:
            return WebhookRepository(session).due(utcnow())

    def _begin(self, delivery_id: int, attempts: int, next_attempt_at: datetime) -> bool:
        with self._database.transaction() as session:
            return WebhookRepository(session).begin_attempt(delivery_id, attempts, next_attempt_at)

    def _end(self, delivery_id: int, answer_status: int | None, error: str | None, *, is_last: bool) -> None:
        with self._database.transaction() as session:
            WebhookRepository(session).end_attempt(delivery_id, answer_status, error, is_last=is_last)
