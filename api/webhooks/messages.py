"""What a webhook is told, and how it is signed: OpenAI's events by the rules of Standard Webhooks."""

import base64
import hashlib
import hmac
import json
import secrets
from datetime import datetime

from api.openai_ids import JOB
from api.version import VERSION
from registry.clock import unix_seconds
from registry.tables import Webhook, WebhookDelivery

EVENT_TYPES = {
    "COMPLETED": "fine_tuning.job.succeeded",
    "FAILED": "fine_tuning.job.failed",
    "CANCELLED": "fine_tuning.job.cancelled",
}
"""OpenAI's names of the ends that a job has."""
SECRET = "whsec_"  # noqa: S105 - the beginning of one
SECRET_BYTES = 32


def new_secret() -> str:
    """Return a secret to sign with: `whsec_` and 32 random bytes in base64."""
    return SECRET + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def message_id(delivery: WebhookDelivery) -> str:
    """Return the name of a message, by which its target knows it again."""
    return f"wh_{delivery.uid}"


def event_id(delivery: WebhookDelivery) -> str:
    """Return the name of the end that a message tells of, the same for every target."""
    return f"evt_{delivery.event_uid}"


def body_of(delivery: WebhookDelivery) -> bytes:
    """Return the message, the same bytes at every attempt."""
    event = {
        "object": "event",
        "id": event_id(delivery),
        "type": EVENT_TYPES[delivery.job_status],
        "created_at": unix_seconds(delivery.ended_at),
        "data": {"id": f"{JOB}{delivery.job_id}"},
    }
    return json.dumps(event).encode()


def headers_of(delivery: WebhookDelivery, webhook: Webhook, body: bytes, now: datetime) -> dict[str, str]:
    """Return the headers of an attempt at `now` (naive UTC); a receiver refuses one that is minutes old."""
    name, sent_at = message_id(delivery), str(unix_seconds(now))
    signed = b".".join((name.encode(), sent_at.encode(), body))
    keys = [webhook.secret]
    if webhook.old_secret is not None and webhook.old_secret_until is not None and now < webhook.old_secret_until:
        keys.append(webhook.old_secret)
    return {
        "content-type": "application/json",
        "user-agent": f"llm-platform/{VERSION}",
        "webhook-id": name,
        "webhook-timestamp": sent_at,
        "webhook-signature": " ".join(f"v1,{_signature(key, signed)}" for key in keys),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(SECRET))
    return base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
