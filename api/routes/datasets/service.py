"""What the data set endpoints do: accept an upload, wait for its checks, show, preview and delete."""

import asyncio
import errno
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from uuid import uuid4

from fastapi import Request
from sqlalchemy.orm import Session

from api.disk import require_disk
from api.errors import NO_SPACE_LEFT, Conflict, DatasetInvalid, DiskFull, NotFound
from api.idempotency import Answer, IdempotentRequest, create_once
from api.listing import Paging, Part
from api.platform import Platform
from api.routes.datasets.schemas import DatasetCreated, DatasetDetail, DatasetImport, DatasetPreview, PreviewRow
from api.routes.datasets.uploads import Upload, receive
from api.routes.models.service import model_in
from configs.chat_format import ChatFormat
from configs.dataset import UPLOAD
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.locking import Lock
from registry.repositories.paging import Filters
from registry.tables import Dataset

POLL_SECONDS = 0.2
FULL = os.strerror(errno.ENOSPC)
UPLOADED_TO_STORED = 2
DONE = "Data set checked and stored"
Receive = Callable[[Request, Path], Awaitable[Upload]]
WAITING = "Data set received; its rows are being checked"


def list_datasets(database: Database, paging: Paging, filters: Filters) -> Part[Dataset]:
    """Return the wanted part of the data sets."""
    with database.reading() as session:
        datasets = DatasetRepository(session)
        return paging.read(lambda limit, after, newest: datasets.list(limit, after, filters, newest_first=newest))


def dataset_in(session: Session, dataset_id: int, lock: Lock | None = None) -> Dataset:
    """Return the data set within a session, or raise `NotFound`."""
    dataset = DatasetRepository(session).get(dataset_id, lock)
    if dataset is None:
        raise NotFound(f"There is no data set with the id {dataset_id}; GET /api/datasets lists those there are.")
    return dataset


def read_dataset(database: Database, dataset_id: int) -> Dataset:
    """Return the data set, or raise `NotFound`."""
    with database.reading() as session:
        return dataset_in(session, dataset_id)


def require_dataset(session: Session, dataset_id: int | None, lock: Lock | None = None) -> None:
    """Raise `NotFound` or `Conflict` unless a named data set is there and can be used."""
    if dataset_id is None:
        return
    dataset = dataset_in(session, dataset_id, lock)
    if dataset.status != "READY":
        reason = dataset.error or "its rows are still being checked; try again soon"
        raise Conflict(f"Data set {dataset_id} ({dataset.name}) is {dataset.status}: {reason}")


async def create_dataset(
    platform: Platform, request: Request, key: str | None, take: Receive = receive
) -> DatasetCreated:
    """Accept a data set, wait for its checks, and answer with what was found; `take` takes it off the wire.

    Raises `DatasetInvalid` with the report if it can't be used; nothing of it is kept then.
    """
    length = request.headers.get("content-length", "0")
    # The file as it was sent, and its rows.
    require_disk(platform.settings, UPLOADED_TO_STORED * int(length) if length.isdigit() else 0)
    uid = uuid4().hex
    path = platform.settings.uploads_dir / uid
    try:
        upload = await take(request, path)
        once = IdempotentRequest(f"POST {request.url.path}", key, upload.body_hash) if key else None
        created = await asyncio.to_thread(
            create_once, platform.database, once, lambda session: _insert(session, uid, upload)
        )
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    dataset = await asyncio.to_thread(read_dataset, platform.database, created.resource_id)
    if dataset.uid != uid:
        # The same key has made it before.
        path.unlink(missing_ok=True)
    dataset = await _checked(platform, dataset)
    if dataset.status == "INVALID":
        await asyncio.to_thread(delete_dataset, platform, dataset.id)
        if FULL in (dataset.error or ""):
            raise DiskFull(NO_SPACE_LEFT)
        raise DatasetInvalid(f"The data set can't be used: {dataset.error}", report=dataset.report)
    detail = DatasetDetail.model_validate(dataset)
    return DatasetCreated(**detail.model_dump(), message=DONE if dataset.status == "READY" else WAITING)


async def _checked(platform: Platform, dataset: Dataset) -> Dataset:
    """Return the data set once the controller has checked it, or as it is when the waiting time is over."""
    deadline = time.monotonic() + platform.settings.upload_wait_seconds
    while dataset.status == "VALIDATING" and time.monotonic() < deadline:
        await asyncio.sleep(POLL_SECONDS)
        dataset = await asyncio.to_thread(read_dataset, platform.database, dataset.id)
    return dataset


def _insert(session: Session, uid: str, upload: Upload) -> tuple[int, Answer]:
    settings = upload.settings
    if settings.model_id is not None:
        model_in(session, settings.model_id, "use")
    require_dataset(session, settings.held_out_dataset_id, "use")
    if isinstance(settings, DatasetImport):
        source, name = settings.dataset, settings.dataset
    else:
        source, name = UPLOAD, upload.file_name or UPLOAD
    # Its ending is compared with what the file holds; PostgreSQL's JSON has no NUL.
    named = {"file_name": upload.file_name.replace("\0", "")[-200:]} if upload.file_name else {}
    dataset = DatasetRepository(session).add(
        Dataset(
            uid=uid,
            name=settings.name or name[:200],
            source=source,
            status="VALIDATING",
            settings=settings.model_dump(exclude={"name"}) | named,
        )
    )
    return dataset.id, {}


async def preview(
    platform: Platform, dataset_id: int, rows: int, rendered: bool, model_id: int | None, chosen: ChatFormat
) -> DatasetPreview:
    """Return the first rows of a data set that is ready, in the chat format that was chosen."""
    dataset = await asyncio.to_thread(_ready, platform.database, dataset_id, model_id)
    found = await platform.dataset_checks.preview(dataset, rows, rendered, model_id, chosen)
    return DatasetPreview(id=dataset_id, rows=[PreviewRow(**row) for row in found])


def _ready(database: Database, dataset_id: int, model_id: int | None) -> Dataset:
    with database.reading() as session:
        require_dataset(session, dataset_id)
        if model_id is not None:
            model_in(session, model_id)
        return dataset_in(session, dataset_id)


def delete_dataset(platform: Platform, dataset_id: int) -> None:
    """Delete a data set and its rows; `Conflict` with what uses it, if anything does."""
    with platform.database.transaction() as session:
        datasets, dataset = DatasetRepository(session), dataset_in(session, dataset_id, "change")
        if dataset.status == "VALIDATING":
            raise Conflict(f"Data set {dataset_id} ({dataset.name}) is being checked; delete it when that is done.")
        users = datasets.users(dataset_id)
        if users:
            raise Conflict(
                f"Data set {dataset_id} ({dataset.name}) is used by {', '.join(users)}; end or delete those first."
            )
        datasets.remove(dataset)
        content = dataset.content_hash if dataset.content_hash and not datasets.shared(dataset) else None
    if content is not None:
        shutil.rmtree(platform.settings.datasets_dir / content, ignore_errors=True)
