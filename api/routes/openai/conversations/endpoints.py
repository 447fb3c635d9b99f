"""OpenAI's endpoints of conversations."""

from typing import Any

from fastapi import APIRouter

from api.platform import CurrentPlatform
from api.routes.openai.conversations import service
from api.routes.openai.conversations.schemas import (
    ConversationCreate,
    ConversationDeleted,
    ConversationObject,
    ConversationUpdate,
    ItemsCreate,
)
from api.routes.openai.responses.endpoints import After, Limit
from api.routes.openai.responses.stored import Order

router = APIRouter(prefix="/conversations", tags=["openai"])


@router.post("")
def create_conversation(platform: CurrentPlatform, body: ConversationCreate) -> ConversationObject:
    """Begin a conversation."""
    return service.create_conversation(platform, body)


@router.get("/{conversation_id}")
def get_conversation(platform: CurrentPlatform, conversation_id: str) -> ConversationObject:
    """Get a conversation without its items."""
    return service.get_conversation(platform, conversation_id)


@router.post("/{conversation_id}")
def update_conversation(
    platform: CurrentPlatform, conversation_id: str, body: ConversationUpdate
) -> ConversationObject:
    """Change a conversation's labels."""
    return service.update_conversation(platform, conversation_id, body)


@router.delete("/{conversation_id}")
def delete_conversation(platform: CurrentPlatform, conversation_id: str) -> ConversationDeleted:
    """Delete a conversation with its items."""
    service.delete_conversation(platform, conversation_id)
    return ConversationDeleted(id=conversation_id)


@router.get("/{conversation_id}/items")
def list_conversation_items(
    platform: CurrentPlatform, conversation_id: str, limit: Limit = 20, after: After = None, order: Order = "desc"
) -> dict[str, Any]:
    """Get a conversation's items, the newest first unless `order` says otherwise."""
    return service.list_items(platform, conversation_id, limit, after, order)


@router.post("/{conversation_id}/items")
def add_conversation_items(platform: CurrentPlatform, conversation_id: str, body: ItemsCreate) -> dict[str, Any]:
    """Add items at the end of a conversation."""
    return service.add_items(platform, conversation_id, body.items)


@router.get("/{conversation_id}/items/{item_id}")
def get_conversation_item(platform: CurrentPlatform, conversation_id: str, item_id: str) -> dict[str, Any]:
    """Get one item of a conversation."""
    return service.get_item(platform, conversation_id, item_id)


@router.delete("/{conversation_id}/items/{item_id}")
def delete_conversation_item(platform: CurrentPlatform, conversation_id: str, item_id: str) -> ConversationObject:
    """Delete one item of a conversation."""
    return service.delete_item(platform, conversation_id, item_id)
