"""Queries on stored responses and conversations and their items. A key finds what it has made, and nobody else's."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, delete, select, update
from sqlalchemy.orm import Session

from registry.acting import name_of_acting_key
from registry.clock import utcnow
from registry.tables import Conversation, StoredItem, StoredResponse, StoredResponseEvents

Items = Sequence[dict[str, Any]]
UNDER_WAY = ("queued", "in_progress")


def _own(table: type[StoredResponse | Conversation | StoredItem]) -> ColumnElement[bool]:
    """The present key made it, or nobody's key did; where there are no keys, whoever asks may see all."""
    key = name_of_acting_key()
    return table.id.is_not(None) if key is None else table.created_by.is_(None) | (table.created_by == key)


class ResponseRepository:
    """Responses, their items and events."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, uid: str) -> StoredResponse | None:
        """Return a response that the present key may see, or None."""
        return self.session.scalar(select(StoredResponse).where(StoredResponse.uid == uid, _own(StoredResponse)))

    def add(self, response: StoredResponse, inputs: Items, outputs: Items) -> StoredResponse:
        """Insert a response with its items; its number is set on return."""
        self.session.add(response)
        self.session.flush()
        _add_items(self.session, inputs, response_id=response.id)
        _add_items(self.session, outputs, response_id=response.id, is_output=True)
        return response

    def items(self, response_id: int, *, is_output: bool) -> list[dict[str, Any]]:
        """Return the items of a response's input, or of its output."""
        of_it = select(StoredItem.item).where(StoredItem.response_id == response_id, StoredItem.is_output == is_output)
        return list(self.session.scalars(of_it.order_by(StoredItem.id)))

    def chain(self, uid: str) -> list[StoredResponse] | None:
        """Return a response and those it goes on from, the first one first; None if one of them is not there."""
        found: list[StoredResponse] = []
        wanted: str | None = uid
        while wanted is not None:
            response = self.get(wanted)
            if response is None:
                return None
            found.append(response)
            wanted = response.previous_uid
        return found[::-1]

    def use(self, responses: Iterable[StoredResponse]) -> None:
        """Record that these responses are gone on from now."""
        ids = [response.id for response in responses]
        self.session.execute(update(StoredResponse).where(StoredResponse.id.in_(ids)).values(used_at=utcnow()))

    def item(self, uid: str) -> dict[str, Any] | None:
        """Return an item that the present key may see, of a response or a conversation; the newest of several."""
        found = select(StoredItem.item).where(StoredItem.uid == uid, _own(StoredItem))
        return self.session.scalar(found.order_by(StoredItem.id.desc()).limit(1))

    def seen(self, response_id: int) -> bool:
        """Record that its process works on it still; returns whether it should."""
        return self._change(response_id, seen_at=utcnow())

    def begin(self, response_id: int) -> bool:
        """Record that a response that was queued is being answered; returns whether it still should be."""
        return self._change(response_id, status="in_progress", seen_at=utcnow())

    def end(self, response_id: int, status: str, body: dict[str, Any], outputs: Items) -> bool:
        """Record how a response ended that was under way; returns False, and changes nothing, if it was not."""
        if not self._change(response_id, status=status, body=body):
            return False
        _add_items(self.session, outputs, response_id=response_id, is_output=True)
        return True

    def lose(self, response: StoredResponse, body: dict[str, Any], seen_before: datetime) -> bool:
        """Record as failed what nobody has been seen to work on since; returns whether that was so."""
        lost = (StoredResponse.status.in_(UNDER_WAY)) & (StoredResponse.seen_at < seen_before)
        change = update(StoredResponse).where(StoredResponse.id == response.id, lost).values(status="failed", body=body)
        return self.session.scalar(change.returning(StoredResponse.id)) is not None

    def add_events(self, response_id: int, events: list[dict[str, Any]]) -> None:
        """Append to the events of a response."""
        self.session.add(StoredResponseEvents(response_id=response_id, events=events))

    def events(self, response_id: int, after: int) -> list[tuple[int, list[dict[str, Any]]]]:
        """Return the rows of a response's events whose numbers are greater than `after`."""
        rows = select(StoredResponseEvents.id, StoredResponseEvents.events).where(
            StoredResponseEvents.response_id == response_id, StoredResponseEvents.id > after
        )
        return list(self.session.execute(rows.order_by(StoredResponseEvents.id)).tuples())

    def remove(self, response: StoredResponse) -> None:
        """Delete a response with its items and events."""
        delete_responses(self.session, [response.id])

    def _change(self, response_id: int, **values: Any) -> bool:
        under_way = (StoredResponse.id == response_id) & StoredResponse.status.in_(UNDER_WAY)
        change = update(StoredResponse).where(under_way).values(values)
        return self.session.scalar(change.returning(StoredResponse.id)) is not None


class ConversationRepository:
    """Conversations and their items."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, uid: str) -> Conversation | None:
        """Return a conversation that the present key may see, or None."""
        return self.session.scalar(select(Conversation).where(Conversation.uid == uid, _own(Conversation)))

    def add(self, conversation: Conversation) -> Conversation:
        """Insert a conversation; its number is set on return."""
        self.session.add(conversation)
        self.session.flush()
        return conversation

    def items(self, conversation_id: int) -> list[dict[str, Any]]:
        """Return all items, in their order."""
        of_it = select(StoredItem.item).where(StoredItem.conversation_id == conversation_id)
        return list(self.session.scalars(of_it.order_by(StoredItem.id)))

    def item(self, conversation_id: int, uid: str) -> StoredItem | None:
        """Return one item, or None."""
        of_it = select(StoredItem).where(StoredItem.conversation_id == conversation_id, StoredItem.uid == uid)
        return self.session.scalar(of_it.order_by(StoredItem.id).limit(1))

    def append(self, conversation: Conversation, items: Items) -> None:
        """Add items at the end."""
        _add_items(self.session, items, conversation_id=conversation.id)
        used = update(Conversation).where(Conversation.id == conversation.id).values(used_at=utcnow())
        self.session.execute(used)

    def remove_item(self, item: StoredItem) -> None:
        """Delete one item."""
        self.session.delete(item)

    def remove(self, conversation: Conversation) -> None:
        """Delete a conversation with its items."""
        delete_conversations(self.session, [conversation.id])


def delete_responses(session: Session, ids: Sequence[int]) -> None:
    """Delete responses with their items and events."""
    session.execute(delete(StoredResponseEvents).where(StoredResponseEvents.response_id.in_(ids)))
    session.execute(delete(StoredItem).where(StoredItem.response_id.in_(ids)))
    session.execute(delete(StoredResponse).where(StoredResponse.id.in_(ids)))


def delete_conversations(session: Session, ids: Sequence[int]) -> None:
    """Delete conversations with their items."""
    session.execute(delete(StoredItem).where(StoredItem.conversation_id.in_(ids)))
    session.execute(delete(Conversation).where(Conversation.id.in_(ids)))


def _add_items(session: Session, items: Items, **owner: Any) -> None:
    session.add_all(StoredItem(uid=item["id"], item=item, **owner) for item in items)
    session.flush()
