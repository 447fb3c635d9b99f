"""Queries on webhooks and on the messages that they get: an outbox, written in the transaction that ends a job."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.repositories.idempotency import forget
from registry.repositories.locking import Lock, for_update
from registry.repositories.paging import page
from registry.tables import Webhook, WebhookDelivery


class WebhookRepository:
    """Targets, and the messages that wait for them or have been sent."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, webhook_id: int, lock: Lock | None = None) -> Webhook | None:
        """Return the webhook, or None."""
        return self.session.get(Webhook, webhook_id, with_for_update=for_update(lock))

    def newest(self, limit: int, before: int | None) -> Sequence[Webhook]:
        """Return the newest webhooks, with ids less than `before`, the newest first."""
        return page(self.session, Webhook, limit, before, newest_first=True)

    def add(self, webhook: Webhook) -> Webhook:
        """Insert a webhook; its id is set on return."""
        self.session.add(webhook)
        self.session.flush()
        return webhook

    def remove(self, webhook: Webhook) -> None:
        """Delete the webhook with its messages, sent or not, and the memory of the request that made it."""
        # On PostgreSQL a job may end at this moment: it waits for this lock, and then has one target less to tell.
        self.session.refresh(webhook, with_for_update=True)
        self.session.execute(delete(WebhookDelivery).where(WebhookDelivery.webhook_id == webhook.id))
        forget(self.session, "%/webhook_endpoints", webhook.id)
        self.session.delete(webhook)

    def queue(self, job_id: int, status: str, ended_at: datetime) -> None:
        """Write down, for every webhook that wants to know, that a job has ended."""
        event_uid, now = uuid4().hex, utcnow()
        # Each target gets its messages in the order of their ids: whoever queues the next one waits for this lock.
        targets = select(Webhook).order_by(Webhook.id).with_for_update(key_share=True)
        for webhook in self.session.scalars(targets):
            if status in webhook.statuses:
                message = WebhookDelivery(
                    webhook_id=webhook.id,
                    uid=uuid4().hex,
                    event_uid=event_uid,
                    job_id=job_id,
                    job_status=status,
                    ended_at=ended_at,
                    next_attempt_at=now,
                )
                self.session.add(message)

    def due(self, now: datetime) -> Sequence[tuple[WebhookDelivery, Webhook]]:
        """Return, for every webhook that has any, the oldest message that is to be sent now."""
        oldest = select(func.min(WebhookDelivery.id)).where(WebhookDelivery.next_attempt_at <= now)
        query = select(WebhookDelivery, Webhook).join(Webhook, Webhook.id == WebhookDelivery.webhook_id)
        found = query.where(WebhookDelivery.id.in_(oldest.group_by(WebhookDelivery.webhook_id)))
        return self.session.execute(found.order_by(WebhookDelivery.id)).tuples().all()

    def begin_attempt(self, delivery_id: int, attempts: int, next_attempt_at: datetime) -> bool:
        """Record that a message is about to be sent, and when again unless that succeeds.

        Returns whether it is there, and has been tried so many times as the caller has seen: its webhook may have been
        deleted meanwhile, and another sender may have been quicker.
        """
        unchanged = (WebhookDelivery.id == delivery_id) & (WebhookDelivery.attempts == attempts)
        begun = update(WebhookDelivery).where(unchanged).returning(WebhookDelivery.id)
        values = {"attempts": WebhookDelivery.attempts + 1, "next_attempt_at": next_attempt_at}
        return self.session.scalar(begun.values(values)) is not None

    def end_attempt(self, delivery_id: int, answer_status: int | None, error: str | None, *, is_last: bool) -> None:
        """Record how sending a message went: no `error` means delivered; a failure is given up if it `is_last`."""
        now = utcnow()
        values = {
            "attempted_at": now,
            "answer_status": answer_status,
            "error": error,
            "delivered_at": None if error is not None else now,
        }
        if error is None or is_last:
            values["next_attempt_at"] = None
        self.session.execute(update(WebhookDelivery).where(WebhookDelivery.id == delivery_id).values(values))

    def newest_deliveries(self, webhook_id: int, limit: int, before: int | None) -> Sequence[WebhookDelivery]:
        """Return the webhook's newest messages, with ids less than `before`, the newest first."""
        of_it = WebhookDelivery.webhook_id == webhook_id
        return page(self.session, WebhookDelivery, limit, before, of_it, newest_first=True)
