"""What the webhook endpoints do."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta

from sqlalchemy.orm import Session

from api.errors import Invalid, NotFound
from api.idempotency import Answer, IdempotentRequest, create_once
from api.openai_ids import WEBHOOK, cursor, number_of
from api.platform import Platform
from api.routes.openai.pages import Page, page_of
from api.routes.openai.webhooks.presenter import delivery_object, endpoint_object, endpoint_with_secret
from api.routes.openai.webhooks.schemas import Delivery, Endpoint, EndpointCreate, EndpointUpdate, EndpointWithSecret
from api.webhooks.addresses import TargetUnreachable
from api.webhooks.messages import EVENT_TYPES, new_secret
from registry.clock import utcnow
from registry.repositories.locking import Lock
from registry.repositories.webhooks import WebhookRepository
from registry.tables import Webhook

OLD_SECRET_LASTS = timedelta(hours=24)


async def create(platform: Platform, body: EndpointCreate, once: IdempotentRequest | None) -> EndpointWithSecret:
    """Add a target; raises `Invalid` if its name leads nowhere, or to where nothing may be sent."""
    # Looked at before the transaction: the answer to a repeated key does not depend on it.
    refusal = await _refusal(platform, body.url)
    created = await asyncio.to_thread(
        create_once, platform.database, once, lambda session: _insert(session, body, refusal)
    )
    secret = await asyncio.to_thread(_secret, platform, created.resource_id)
    return EndpointWithSecret(**created.answer, signing_secret=secret)


def list_endpoints(platform: Platform, limit: int, after: str | None) -> Page[Endpoint]:
    """Return a page of the targets, newest first."""
    with platform.database.reading() as session:
        found = WebhookRepository(session).newest(limit + 1, cursor(after))
        return page_of([endpoint_object(webhook) for webhook in found], limit)


def read(platform: Platform, endpoint_id: str) -> Endpoint:
    """Return a target, or raise `NotFound`."""
    with platform.database.reading() as session:
        return endpoint_object(_webhook_in(session, endpoint_id))


async def change(platform: Platform, endpoint_id: str, body: EndpointUpdate) -> Endpoint:
    """Change what is given; raises `NotFound`, and `Invalid` as `create` does."""
    refusal = None if body.url is None else await _refusal(platform, body.url)

    def update() -> Endpoint:
        with platform.database.transaction() as session:
            webhook = _webhook_in(session, endpoint_id, "change")
            if refusal is not None:
                raise refusal
            webhook.name = body.name or webhook.name
            webhook.url = body.url or webhook.url
            webhook.statuses = _statuses(body.event_types) if body.event_types else webhook.statuses
            session.flush()
            return endpoint_object(webhook)

    return await asyncio.to_thread(update)


def rotate_secret(platform: Platform, endpoint_id: str, *, keep_old: bool) -> EndpointWithSecret:
    """Give a target a new secret; with `keep_old` its messages are signed with the old one as well for a day."""
    with platform.database.transaction() as session:
        webhook = _webhook_in(session, endpoint_id, "change")
        webhook.old_secret = webhook.secret if keep_old else None
        webhook.old_secret_until = utcnow() + OLD_SECRET_LASTS if keep_old else None
        webhook.secret = new_secret()
        session.flush()
        return endpoint_with_secret(webhook)


def delete(platform: Platform, endpoint_id: str) -> None:
    """Delete a target with its messages, those that wait too; raises `NotFound`."""
    with platform.database.transaction() as session:
        WebhookRepository(session).remove(_webhook_in(session, endpoint_id, "change"))


def list_deliveries(platform: Platform, endpoint_id: str, limit: int, after: str | None) -> Page[Delivery]:
    """Return a page of a target's messages, newest first; raises `NotFound` for an unknown target."""
    with platform.database.reading() as session:
        webhook = _webhook_in(session, endpoint_id)
        found = WebhookRepository(session).newest_deliveries(webhook.id, limit + 1, cursor(after))
        return page_of([delivery_object(delivery) for delivery in found], limit)


def _insert(session: Session, body: EndpointCreate, refusal: Invalid | None) -> tuple[int, Answer]:
    if refusal is not None:
        raise refusal
    webhook = Webhook(name=body.name, url=body.url, statuses=_statuses(body.event_types), secret=new_secret())
    WebhookRepository(session).add(webhook)
    # The answer is remembered without the secret, which is kept in one place alone.
    return webhook.id, endpoint_object(webhook).model_dump()


def _secret(platform: Platform, webhook_id: int) -> str:
    """Return a target's secret, as it is now; an answer that is repeated after a rotation has the new one."""
    with platform.database.reading() as session:
        webhook = WebhookRepository(session).get(webhook_id)
        if webhook is None:
            raise NotFound(f"Webhook endpoint '{WEBHOOK}{webhook_id}' was deleted just now.")
        return webhook.secret


def _statuses(event_types: Sequence[str]) -> list[str]:
    return [status for status, event_type in EVENT_TYPES.items() if event_type in event_types]


def _webhook_in(session: Session, endpoint_id: str, lock: Lock | None = None) -> Webhook:
    webhook = WebhookRepository(session).get(number_of(endpoint_id, WEBHOOK), lock)
    if webhook is None:
        raise NotFound(
            f"There is no webhook endpoint '{endpoint_id}'; GET /v1/webhook_endpoints lists those there are."
        )
    return webhook


async def _refusal(platform: Platform, url: str) -> Invalid | None:
    """Return why nothing can be sent to a URL; None if something can."""
    try:
        await platform.resolver.require_target(url, platform.settings.webhook_timeout_seconds)
    except TargetUnreachable as error:
        return Invalid(f"url is {url!r}, to which nothing can be sent: {error}.")
    return None
