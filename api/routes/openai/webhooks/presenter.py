"""How a webhook and its deliveries read in OpenAI's shape."""

from datetime import datetime
from typing import Any

from api.openai_ids import DELIVERY, JOB, WEBHOOK
from api.routes.openai.webhooks.schemas import Delivery, Endpoint, EndpointWithSecret
from api.webhooks.messages import EVENT_TYPES, event_id, message_id
from registry.clock import unix_seconds
from registry.tables import Webhook, WebhookDelivery

HINT_LENGTH = 4


def endpoint_object(webhook: Webhook) -> Endpoint:
    """Return the webhook without its secret."""
    return Endpoint(**_fields(webhook))


def endpoint_with_secret(webhook: Webhook) -> EndpointWithSecret:
    """Return the webhook with its secret, which only the answer that made it may show."""
    return EndpointWithSecret(**_fields(webhook), signing_secret=webhook.secret)


def delivery_object(delivery: WebhookDelivery) -> Delivery:
    """Return a message and how sending it went."""
    return Delivery(
        id=f"{DELIVERY}{delivery.id}",
        created_at=unix_seconds(delivery.created_at),
        webhook_id=message_id(delivery),
        event_id=event_id(delivery),
        event_type=EVENT_TYPES[delivery.job_status],
        job_id=f"{JOB}{delivery.job_id}",
        status=_status(delivery),
        attempts=delivery.attempts,
        attempted_at=_seconds(delivery.attempted_at),
        next_attempt_at=_seconds(delivery.next_attempt_at),
        delivered_at=_seconds(delivery.delivered_at),
        status_code=delivery.answer_status,
        error=delivery.error,
    )


def _fields(webhook: Webhook) -> dict[str, Any]:
    return {
        "id": f"{WEBHOOK}{webhook.id}",
        "created_at": unix_seconds(webhook.created_at),
        "updated_at": unix_seconds(webhook.updated_at),
        "name": webhook.name,
        "url": webhook.url,
        "event_types": [EVENT_TYPES[status] for status in webhook.statuses],
        "created_by": webhook.created_by,
        "signing_secret_hint": f"…{webhook.secret[-HINT_LENGTH:]}",
    }


def _status(delivery: WebhookDelivery) -> Any:
    if delivery.delivered_at is not None:
        return "delivered"
    return "given_up" if delivery.next_attempt_at is None else "waiting"


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else unix_seconds(moment)
