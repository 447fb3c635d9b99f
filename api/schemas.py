"""Types that every resource's schemas share."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, WithJsonSchema

from configs.recipe import LARGEST_ID
from registry.clock import timestamp

Timestamp = Annotated[
    datetime,
    PlainSerializer(timestamp, return_type=str),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}$",
            "examples": ["2025-06-24T13:45:30.123456"],
        }
    ),
]
"""UTC, ISO 8601, six decimals, no offset suffix."""

CREATED_BY = "Name of the key that made it; null where there are no keys, or the platform made it by itself"
ModelId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="Id of a model")]
JobId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="Id of a training job")]
EvaluationId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="Id of an evaluation")]
DatasetId = Annotated[int, Path(ge=1, le=LARGEST_ID, description="Id of a data set")]
Limit = Annotated[
    int | None, Query(ge=1, le=LARGEST_ID, description="At most this many; all, but no more than 1,000, when left out")
]
After = Annotated[
    int | None, Query(ge=0, le=LARGEST_ID, description="Only what comes after this id in the order of the list")
]
LARGEST_EVENT_ID = 2**53 - 1
"""Events are counted in eight bytes; no larger number is exact in a client whose numbers are floating."""
AfterEvent = Annotated[int | None, Query(ge=0, le=LARGEST_EVENT_ID, description="Only ids greater than this one")]
NextAfter = Annotated[
    int | None, Field(description="There is more: ask again with `after` set to this; null at the end of the list")
]


class ResponseBody(BaseModel):
    """A response, read from a record's attributes or built by hand."""

    model_config = ConfigDict(from_attributes=True, protected_namespaces=())


class Deleted(ResponseBody):
    """Answer to a deletion."""

    id: int
    message: str


EVENT_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}, "description": "An answer, or a stream"}
}
