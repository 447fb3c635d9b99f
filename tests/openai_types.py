"""Holds every answer to the types of OpenAI's SDK, in pydantic's strict mode, as the SDK itself does not."""

import json
import struct
from base64 import b64decode
from typing import Any

from openai.types import CreateEmbeddingResponse, FileDeleted, FileObject, Model, ModelDeleted
from openai.types.conversations import Conversation, ConversationDeletedResource
from openai.types.conversations.conversation_item import ConversationItem
from openai.types.fine_tuning import FineTuningJob, FineTuningJobEvent
from openai.types.fine_tuning.jobs import FineTuningJobCheckpoint
from openai.types.responses import Response, ResponseItem
from openai.types.webhooks import DeletedWebhookEndpoint, WebhookEndpoint
from pydantic import BaseModel, TypeAdapter

TYPES: dict[str, type[BaseModel]] = {
    "file": FileObject,
    "model": Model,
    "fine_tuning.job": FineTuningJob,
    "fine_tuning.job.event": FineTuningJobEvent,
    "fine_tuning.job.checkpoint": FineTuningJobCheckpoint,
    "webhook_endpoint": WebhookEndpoint,
    "response": Response,
    "conversation": Conversation,
}
DELETED: dict[str, type[BaseModel]] = {
    "file": FileDeleted,
    "model": ModelDeleted,
    "conversation.deleted": ConversationDeletedResource,
    "webhook_endpoint.deleted": DeletedWebhookEndpoint,
}

ITEM_TYPES: dict[str, TypeAdapter[Any]] = {
    "input_items": TypeAdapter(ResponseItem),
    "items": TypeAdapter(ConversationItem),
}


def check_types(response: Any) -> None:
    """An HTTP client's hook: fail unless a JSON answer is exactly what the SDK's types say."""
    response.read()
    is_json = response.headers["content-type"] == "application/json"
    if response.is_error or not is_json or not response.request.url.path.startswith("/v1/"):
        return
    body = json.loads(response.text)
    if response.request.url.path == "/v1/embeddings":
        CreateEmbeddingResponse.model_validate(_decoded(body), strict=True)
        return
    items = ITEM_TYPES.get(response.request.url.path.rpartition("/")[2])
    if items is not None:
        for one in body["data"]:
            items.validate_python(one, strict=True)
        return
    for one in body["data"] if body.get("object") == "list" else [body]:
        kind = (DELETED if "deleted" in one else TYPES).get(one.get("object"))
        if kind is not None:
            kind.model_validate(_as_known(one), strict=True)


def _decoded(body: dict[str, Any]) -> dict[str, Any]:
    """The type knows only numbers; base64, which the SDK asks for by itself, it turns into them first."""
    for one in body["data"]:
        if isinstance(one["embedding"], str):
            content = b64decode(one["embedding"], validate=True)
            one["embedding"] = list(struct.unpack(f"<{len(content) // 4}f", content))
    return body


def _as_known(one: dict[str, Any]) -> dict[str, Any]:
    """The SDK pauses jobs, but the type of its version 3.54 does not list the status that they then have."""
    return one | {"status": "running"} if one.get("status") == "paused" else one
