"""Shapes of API keys."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from api.schemas import ResponseBody, Timestamp
from configs import keys
from configs.strict import StrictModel

KeyName = Annotated[str, StringConstraints(pattern=rf"^{keys.NAME.pattern}$")]


class KeyCreate(StrictModel):
    """A key to make."""

    name: KeyName = Field(description="Whose key it is, as refusals and the audit log name it")
    scope: Literal["read", "write", "admin"] = Field("read", description="What it may do")


class KeySummary(ResponseBody):
    """A key, without the key itself: that is kept nowhere."""

    id: str = Field(description="The first digits of the key's SHA-256")
    name: str
    scope: keys.Scope
    source: Literal["settings", "api"] = Field(
        description="Whether LLM_PLATFORM_API_KEYS holds it, or it was made here"
    )
    created_at: Timestamp | None = Field(description="null for a key of the settings")
    created_by: str | None = Field(description="Name of the key that made it")
    revoked_at: Timestamp | None
    revoked_by: str | None = Field(description="Name of the key that revoked it")


class KeyCreated(KeySummary):
    """Answer to a made key."""

    key: str | None = Field(description="The key; null where an Idempotency-Key repeats the request that made it")
    message: str


class KeyList(ResponseBody):
    """Keys, those of the settings first."""

    keys: list[KeySummary]
