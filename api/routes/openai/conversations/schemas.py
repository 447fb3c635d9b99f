"""Shapes of conversations."""

from typing import Annotated, Literal

from pydantic import Field

from api.routes.openai.responses.input_items import Item
from api.routes.openai.responses.schemas import Labels
from api.routes.openai.tolerant import TolerantRequest
from api.schemas import ResponseBody

MOST_ITEMS = 20
Items = Annotated[list[Item], Field(max_length=MOST_ITEMS, description=f"At most {MOST_ITEMS} at a time")]


class ConversationCreate(TolerantRequest):
    """How a conversation begins."""

    items: Items | None = None
    metadata: Labels | None = None


class ConversationUpdate(TolerantRequest):
    """New labels in the place of the old ones."""

    metadata: Labels | None = None


class ItemsCreate(TolerantRequest):
    """Items to add at the end."""

    items: Items


class ConversationObject(ResponseBody):
    """A conversation, without its items."""

    id: str
    object: Literal["conversation"] = "conversation"
    created_at: int
    metadata: dict[str, str]


class ConversationDeleted(ResponseBody):
    """Answer to a deletion."""

    id: str
    object: Literal["conversation.deleted"] = "conversation.deleted"
    deleted: Literal[True] = True
