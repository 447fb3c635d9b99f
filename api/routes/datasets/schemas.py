"""Shapes of data sets."""

from typing import Any, Literal

from pydantic import Field

from api.routes.models.schemas import BaseModelName
from api.schemas import CREATED_BY, NextAfter, ResponseBody, Timestamp
from configs.dataset import DatasetSettings
from configs.recipe import JobName

Status = Literal["VALIDATING", "READY", "INVALID"]


class DatasetImport(DatasetSettings):
    """A data set to fetch: a file's name in the local data sets folder, or a hub id."""

    dataset: BaseModelName = Field(description="Name in the local data sets folder, or a hub id (`org/name`)")
    split: JobName = Field("train", description="Split of a data set from the hub")


class DatasetSummary(ResponseBody):
    """A data set as the list shows it."""

    id: int
    name: str
    source: str = Field(description="Where the rows came from")
    status: Status
    rows: int | None = Field(description="Usable rows; null until they have been counted")
    content_hash: str | None = Field(description="SHA-256 over the rows: equal data sets have equal hashes")
    created_at: Timestamp
    created_by: str | None = Field(description=CREATED_BY)


class DatasetDetail(DatasetSummary):
    """A data set with its settings and what was found in it."""

    error: str | None = Field(description="Why it can't be used")
    settings: dict[str, Any] = Field(description="How it was read and is split")
    report: dict[str, Any] | None = Field(description="Rows, tokens, lengths, cuts, duplicates, errors, warnings")


class DatasetCreated(DatasetDetail):
    """Answer to an upload."""

    message: str


class DatasetList(ResponseBody):
    """Data sets, in id order."""

    datasets: list[DatasetSummary]
    next_after: NextAfter


class PreviewToken(ResponseBody):
    """One token that the model reads."""

    id: int
    text: str
    learned: bool = Field(description="Whether the loss is on this token")
    weight: float = Field(description="What the token counts in the loss; 0 where it is not learned")


class PreviewRow(ResponseBody):
    """One row, and with `rendered=true` what the model is trained on, token by token."""

    number: int = Field(description="Line, or place in the file, from 1")
    side: Literal["train", "held_out"]
    messages: list[dict[str, Any]] | None
    text: str | None
    rendered: str | None = None
    tokens: list[PreviewToken] | None = None
    cut: bool | None = Field(None, description="Whether the row is longer than max_seq_length, and loses its end")
    windows: list[int] | None = Field(
        None, description="Tokens of each window that training reads of the row; one, unless it is longer"
    )


class DatasetPreview(ResponseBody):
    """The first rows of a data set."""

    id: int
    rows: list[PreviewRow]
