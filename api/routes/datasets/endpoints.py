"""Data set endpoints."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from fastapi import status as http

from api.generation.connections import answered
from api.idempotency import IdempotencyKey
from api.listing import CreatedAfter, Name, Paged
from api.platform import CurrentPlatform
from api.routes.datasets import service
from api.routes.datasets.schemas import (
    DatasetCreated,
    DatasetDetail,
    DatasetImport,
    DatasetList,
    DatasetPreview,
    DatasetSummary,
    Status,
)
from api.schemas import DatasetId, Deleted
from configs.chat_format import ChatFormat, TemplateText
from configs.dataset import DatasetSettings
from configs.recipe import LARGEST_ID
from registry.repositories.paging import Filters

router = APIRouter(prefix="/datasets", tags=["datasets"])

NOT_YET: dict[int | str, dict[str, Any]] = {202: {"model": DatasetCreated, "description": "Received, being checked"}}


def form_schema(fields_of: type[DatasetSettings]) -> dict[str, Any]:
    """Return the schema of a multipart form: the settings as fields beside the file."""
    schema = fields_of.model_json_schema()
    fields = {
        name: {"type": "string", "description": field.get("description", "")}
        for name, field in schema["properties"].items()
    }
    file = {"type": "string", "format": "binary", "description": "JSONL, JSON, CSV, Parquet, Arrow or plain text"}
    return {
        "type": "object",
        "properties": {"file": file, **fields},
        "required": ["file", *schema.get("required", [])],
        "additionalProperties": False,
    }


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {"schema": form_schema(DatasetSettings)},
            "application/json": {"schema": DatasetImport.model_json_schema()},
        },
    }
}


@router.get("")
def list_datasets(
    platform: CurrentPlatform,
    paging: Paged,
    status: Annotated[Status | None, Query(description="Only those in this status")] = None,
    name: Name = None,
    created_after: CreatedAfter = None,
) -> DatasetList:
    """Get all data sets, or those that are asked for."""
    filters = Filters(status=status, name=name, created_after=created_after)
    part = service.list_datasets(platform.database, paging, filters)
    return DatasetList(
        datasets=[DatasetSummary.model_validate(dataset) for dataset in part.entries], next_after=part.next_after
    )


@router.post("", status_code=http.HTTP_201_CREATED, responses=NOT_YET, openapi_extra=BODY)
async def create_dataset(
    platform: CurrentPlatform,
    request: Request,
    response: Response,
    idempotency_key: IdempotencyKey = None,
) -> DatasetCreated:
    """Upload a data set (multipart field `file`) or name a local one or one of the hub (JSON); every row is checked."""
    created = await service.create_dataset(platform, request, idempotency_key)
    response.status_code = http.HTTP_201_CREATED if created.status == "READY" else http.HTTP_202_ACCEPTED
    return created


@router.get("/{dataset_id}")
def get_dataset(platform: CurrentPlatform, dataset_id: DatasetId) -> DatasetDetail:
    """Get a data set with its report."""
    return DatasetDetail.model_validate(service.read_dataset(platform.database, dataset_id))


@router.get("/{dataset_id}/preview", response_model=DatasetPreview)
async def preview_dataset(
    platform: CurrentPlatform,
    request: Request,
    dataset_id: DatasetId,
    rows: Annotated[int, Query(ge=1, le=100, description="How many of the first rows")] = 5,
    rendered: Annotated[bool, Query(description="Also the text and the tokens that a model is trained on")] = False,
    model_id: Annotated[
        int | None, Query(ge=1, le=LARGEST_ID, description="Model that reads them; none: the one it was checked with")
    ] = None,
    chat_template: Annotated[
        TemplateText | None, Query(description="Chat template, by name or text; none: the one it was checked with")
    ] = None,
) -> DatasetPreview | Response:
    """Get the first rows, and on demand what the model is trained on, token by token."""
    chosen = ChatFormat(chat_template=chat_template)
    return await answered(request, service.preview(platform, dataset_id, rows, rendered, model_id, chosen))


@router.delete("/{dataset_id}")
def delete_dataset(platform: CurrentPlatform, dataset_id: DatasetId) -> Deleted:
    """Delete a data set with its rows; jobs that used it keep their results."""
    service.delete_dataset(platform, dataset_id)
    return Deleted(id=dataset_id, message="Data set deleted successfully")
