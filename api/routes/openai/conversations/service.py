"""What the endpoints of conversations do."""

from typing import Any

from sqlalchemy.orm import Session

from api.errors import NotFound
from api.platform import Platform
from api.routes.openai.conversations.schemas import ConversationCreate, ConversationObject, ConversationUpdate
from api.routes.openai.responses.input_items import Item
from api.routes.openai.responses.items import new_id
from api.routes.openai.responses.request import conversation_of, is_id, own_items
from api.routes.openai.responses.stored import Order, page_of_items
from registry.clock import unix_seconds
from registry.repositories.responses import ConversationRepository
from registry.tables import Conversation, StoredItem

PREFIX = "conv"


def create_conversation(platform: Platform, body: ConversationCreate) -> ConversationObject:
    """Store a conversation, perhaps with its first items; raises `NotFound` for a reference to no item."""
    with platform.database.transaction() as session:
        conversations = ConversationRepository(session)
        made = conversations.add(Conversation(uid=new_id(PREFIX), labels=body.metadata or {}))
        conversations.append(made, own_items(session, body.items or []))
        return _shown(made)


def get_conversation(platform: Platform, uid: str) -> ConversationObject:
    """Return a conversation; raises `NotFound`."""
    with platform.database.reading() as session:
        return _shown(conversation_of(session, uid))


def update_conversation(platform: Platform, uid: str, body: ConversationUpdate) -> ConversationObject:
    """Give a conversation other labels; raises `NotFound`."""
    with platform.database.transaction() as session:
        found = conversation_of(session, uid)
        found.labels = body.metadata or {}
        return _shown(found)


def delete_conversation(platform: Platform, uid: str) -> None:
    """Delete a conversation with its items; raises `NotFound`."""
    with platform.database.transaction() as session:
        ConversationRepository(session).remove(conversation_of(session, uid))


def list_items(platform: Platform, uid: str, limit: int, after: str | None, order: Order) -> dict[str, Any]:
    """Return a page of a conversation's items; raises `NotFound`."""
    with platform.database.reading() as session:
        items = ConversationRepository(session).items(conversation_of(session, uid).id)
    return page_of_items(items, limit, after, order)


def add_items(platform: Platform, uid: str, items: list[Item]) -> dict[str, Any]:
    """Add items at the end of a conversation, and return them as a page; raises `NotFound`."""
    with platform.database.transaction() as session:
        added = own_items(session, items)
        ConversationRepository(session).append(conversation_of(session, uid), added)
    return page_of_items(added, max(len(added), 1), None, "asc")


def get_item(platform: Platform, uid: str, item_uid: str) -> dict[str, Any]:
    """Return one item of a conversation; raises `NotFound`."""
    with platform.database.reading() as session:
        return _item(session, uid, item_uid).item


def delete_item(platform: Platform, uid: str, item_uid: str) -> ConversationObject:
    """Delete one item of a conversation, which is returned; raises `NotFound`."""
    with platform.database.transaction() as session:
        ConversationRepository(session).remove_item(_item(session, uid, item_uid))
        return _shown(conversation_of(session, uid))


def _item(session: Session, uid: str, item_uid: str) -> StoredItem:
    conversation = conversation_of(session, uid)
    item = ConversationRepository(session).item(conversation.id, item_uid) if is_id(item_uid) else None
    if item is None:
        raise NotFound(f"Item with id {item_uid[:80]!r} not found in conversation {uid}.")
    return item


def _shown(conversation: Conversation) -> ConversationObject:
    return ConversationObject(
        id=conversation.uid, created_at=unix_seconds(conversation.created_at), metadata=conversation.labels
    )
