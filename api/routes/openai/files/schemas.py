"""Shapes of files."""

from typing import Literal

from pydantic import Field

from api.routes.openai.pages import Listed
from api.schemas import ResponseBody
from configs.dataset import DatasetSettings

FINE_TUNE, RESULTS = "fine-tune", "fine-tune-results"


class FileCreate(DatasetSettings):
    """What comes with an uploaded file: its purpose, and any setting of a data set."""

    # Not stored: it says nothing that the data set does not.
    purpose: Literal["fine-tune"] = Field(exclude=True)


class FileObject(Listed):
    """A data set, or a job's step metrics."""

    object: Literal["file"] = "file"
    bytes: int = Field(description="Size of what `GET /v1/files/{file_id}/content` returns")
    created_at: int
    filename: str
    purpose: Literal["fine-tune", "fine-tune-results"]
    status: Literal["uploaded", "processed", "error"] = Field(description="`processed` once every row is checked")
    status_details: str | None = Field(None, description="Why it can't be used")


class FileDeleted(ResponseBody):
    """Answer to a deletion."""

    id: str
    object: Literal["file"] = "file"
    deleted: Literal[True] = True
