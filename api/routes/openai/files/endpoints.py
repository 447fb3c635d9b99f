"""OpenAI's file endpoints, onto our data sets."""

from functools import partial
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import StreamingResponse

from api.errors import Invalid
from api.idempotency import IdempotencyKey
from api.openai_ids import FILE, NUMBER
from api.platform import CurrentPlatform
from api.routes.datasets.endpoints import form_schema
from api.routes.datasets.service import create_dataset
from api.routes.datasets.uploads import receive_form
from api.routes.openai.files import service
from api.routes.openai.files.schemas import FileCreate, FileDeleted, FileObject
from api.routes.openai.pages import LARGEST_PAGE, Limit, Page, after_id

router = APIRouter(prefix="/files", tags=["openai"])

FORM = "multipart/form-data"
BODY = {"requestBody": {"required": True, "content": {FORM: {"schema": form_schema(FileCreate)}}}}


@router.get("")
def list_files(
    platform: CurrentPlatform,
    purpose: Annotated[str | None, Query(description="`fine-tune` if left out, or `fine-tune-results`")] = None,
    limit: Limit = LARGEST_PAGE,
    after: Annotated[str | None, after_id(f"{FILE}(results-)?{NUMBER}")] = None,
    order: Literal["asc", "desc"] = "desc",
) -> Page[FileObject]:
    """Get uploaded data sets, or the results of ended jobs, the newest first unless `order` says otherwise."""
    return service.list_files(platform, purpose, limit, after, newest_first=order == "desc")


@router.post("", openapi_extra=BODY)
async def create_file(
    platform: CurrentPlatform, request: Request, idempotency_key: IdempotencyKey = None
) -> FileObject:
    """Upload a data set; every row is checked."""
    if not request.headers.get("content-type", "").startswith(FORM):
        raise Invalid("file is required: send the data set as the field `file` of a form (multipart/form-data).")
    take = partial(receive_form, fields_of=FileCreate)
    created = await create_dataset(platform, request, idempotency_key, take)
    return await run_in_threadpool(service.read_file, platform, f"{FILE}{created.id}")


@router.get("/{file_id}")
def get_file(platform: CurrentPlatform, file_id: str) -> FileObject:
    """Get one file."""
    return service.read_file(platform, file_id)


@router.get("/{file_id}/content", response_class=StreamingResponse)
def get_file_content(platform: CurrentPlatform, file_id: str) -> Response:
    """Get a data set's rows as JSON lines, or a job's step metrics as CSV."""
    media_type, content = service.content_of(platform, file_id)
    return StreamingResponse(content, media_type=media_type)


@router.delete("/{file_id}")
def delete_file(platform: CurrentPlatform, file_id: str) -> FileDeleted:
    """Delete a data set that nothing uses."""
    service.delete_file(platform, file_id)
    return FileDeleted(id=file_id)
