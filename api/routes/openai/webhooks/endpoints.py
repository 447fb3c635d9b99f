"""OpenAI's endpoints to webhooks: which targets are told of the ends of training jobs."""

from typing import Annotated

from fastapi import APIRouter, Path

from api.idempotency import OnceOnly
from api.openai_ids import DELIVERY, NUMBER, WEBHOOK
from api.platform import CurrentPlatform
from api.routes.openai.pages import Limit, Page, after_id
from api.routes.openai.webhooks import service
from api.routes.openai.webhooks.schemas import (
    Delivery,
    Endpoint,
    EndpointCreate,
    EndpointDeleted,
    EndpointUpdate,
    EndpointWithSecret,
    SecretRotate,
)

router = APIRouter(prefix="/webhook_endpoints", tags=["openai"])

EndpointName = Annotated[str, Path(description=f"Id of a webhook endpoint, such as {WEBHOOK}1")]


@router.get("")
def list_endpoints(
    platform: CurrentPlatform, limit: Limit = 20, after: Annotated[str | None, after_id(f"{WEBHOOK}{NUMBER}")] = None
) -> Page[Endpoint]:
    """Get webhook endpoints, newest first."""
    return service.list_endpoints(platform, limit, after)


@router.post("")
async def create_endpoint(platform: CurrentPlatform, body: EndpointCreate, once: OnceOnly) -> EndpointWithSecret:
    """Add a webhook endpoint; only this answer shows the secret that its messages are signed with."""
    return await service.create(platform, body, once)


@router.get("/{endpoint_id}")
def get_endpoint(platform: CurrentPlatform, endpoint_id: EndpointName) -> Endpoint:
    """Get one webhook endpoint."""
    return service.read(platform, endpoint_id)


@router.post("/{endpoint_id}")
async def update_endpoint(platform: CurrentPlatform, endpoint_id: EndpointName, body: EndpointUpdate) -> Endpoint:
    """Change a webhook endpoint; messages that wait go to its new URL."""
    return await service.change(platform, endpoint_id, body)


@router.delete("/{endpoint_id}")
def delete_endpoint(platform: CurrentPlatform, endpoint_id: EndpointName) -> EndpointDeleted:
    """Delete a webhook endpoint with its messages; those that wait are not sent any more."""
    service.delete(platform, endpoint_id)
    return EndpointDeleted(id=endpoint_id)


@router.post("/{endpoint_id}/rotate_secret")
def rotate_secret(
    platform: CurrentPlatform, endpoint_id: EndpointName, body: SecretRotate | None = None
) -> EndpointWithSecret:
    """Give a webhook endpoint a new secret; only this answer shows it."""
    keep_old = body is not None and body.keep_old_secret_active_for_24_hours
    return service.rotate_secret(platform, endpoint_id, keep_old=keep_old)


@router.get("/{endpoint_id}/deliveries")
def list_deliveries(
    platform: CurrentPlatform,
    endpoint_id: EndpointName,
    limit: Limit = 20,
    after: Annotated[str | None, after_id(f"{DELIVERY}{NUMBER}")] = None,
) -> Page[Delivery]:
    """Get what was or will be sent to a webhook endpoint, newest first."""
    return service.list_deliveries(platform, endpoint_id, limit, after)
