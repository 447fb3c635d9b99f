"""Shapes of webhook endpoints, and of what was sent to them."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from api.routes.openai.pages import Listed
from api.schemas import CREATED_BY, ResponseBody
from api.webhooks.addresses import LONGEST_URL, parsed
from configs.recipe import LONGEST_NAME, NAME, NO_NUL
from configs.strict import StrictModel

EventType = Literal["fine_tuning.job.succeeded", "fine_tuning.job.failed", "fine_tuning.job.cancelled"]
EventTypes = Annotated[list[EventType], Field(min_length=1, max_length=100)]
Name = Annotated[str, StringConstraints(min_length=1, max_length=LONGEST_NAME, pattern=NAME)]


def _a_target(url: str) -> str:
    parsed(url)
    return url


TargetUrl = Annotated[
    str, StringConstraints(min_length=1, max_length=LONGEST_URL, pattern=NO_NUL), AfterValidator(_a_target)
]


class EndpointCreate(StrictModel):
    """A target, and what it is told."""

    name: Name
    url: TargetUrl = Field(description="Where to POST; http or https, and public unless a setting allows others")
    event_types: EventTypes


class EndpointUpdate(StrictModel):
    """What is to change; the rest stays."""

    name: Name | None = None
    url: TargetUrl | None = None
    event_types: EventTypes | None = None


class SecretRotate(StrictModel):
    """How the secret before ends."""

    keep_old_secret_active_for_24_hours: bool = Field(False, description="Sign with both until then")


class Endpoint(Listed):
    """A target, and what it is told."""

    object: Literal["webhook_endpoint"] = "webhook_endpoint"
    created_at: int
    updated_at: int
    name: str
    url: str
    event_types: Sequence[EventType]
    signing_secret_hint: str = Field(description="The end of the secret")
    created_by: str | None = Field(None, description=CREATED_BY)


class EndpointWithSecret(Endpoint):
    """The same with the secret, which no later answer shows."""

    signing_secret: str


class EndpointDeleted(ResponseBody):
    """Answer to a deletion."""

    id: str
    object: Literal["webhook_endpoint.deleted"] = "webhook_endpoint.deleted"
    deleted: Literal[True] = True


class Delivery(Listed):
    """A message to a target: what it tells, and how sending it went."""

    object: Literal["webhook_endpoint.delivery"] = "webhook_endpoint.delivery"
    created_at: int
    webhook_id: str = Field(description="The header `webhook-id` of every attempt")
    event_id: str
    event_type: EventType
    job_id: str
    status: Literal["waiting", "delivered", "given_up"]
    attempts: int
    attempted_at: int | None
    next_attempt_at: int | None
    delivered_at: int | None
    status_code: int | None = Field(description="What the target answered to the newest attempt; null: nothing")
    error: str | None = Field(description="Why the newest attempt was in vain")
