"""What the file endpoints do, over the data sets and jobs of the documented API."""

from collections.abc import Iterator

from sqlalchemy.orm import Session

from api.errors import Conflict
from api.openai_ids import FILE, cursor, is_of, number_of
from api.openai_ids import RESULTS as RESULTS_ID
from api.platform import Platform
from api.routes.datasets.service import dataset_in, delete_dataset, require_dataset
from api.routes.openai.files.results import ended_job, size_of, step_metrics
from api.routes.openai.files.schemas import FINE_TUNE, RESULTS, FileObject
from api.routes.openai.pages import Page, page_of
from registry.clock import unix_seconds
from registry.repositories.datasets import DatasetRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Dataset, TrainingJob
from tasks.data.chat_lines import chat_lines

STATUS = {"VALIDATING": "uploaded", "READY": "processed", "INVALID": "error"}


def list_files(
    platform: Platform, purpose: str | None, limit: int, after: str | None, *, newest_first: bool
) -> Page[FileObject]:
    """Return a page of the data sets, or of the results of ended jobs if that `purpose` is asked for."""
    with platform.database.reading() as session:
        if purpose in (None, FINE_TUNE):
            datasets = DatasetRepository(session).list(limit + 1, cursor(after), newest_first=newest_first)
            return page_of([dataset_file(platform, dataset) for dataset in datasets], limit)
        if purpose == RESULTS:
            jobs = TrainingJobRepository(session).ended(limit + 1, cursor(after), newest_first=newest_first)
            return page_of([_results_file(session, job) for job in jobs], limit)
    return page_of([], limit)


def read_file(platform: Platform, file_id: str) -> FileObject:
    """Return a file by its id, or raise `NotFound`."""
    with platform.database.reading() as session:
        if is_of(file_id, RESULTS_ID):
            return _results_file(session, ended_job(session, file_id))
        return dataset_file(platform, dataset_in(session, number_of(file_id, FILE)))


def content_of(platform: Platform, file_id: str) -> tuple[str, Iterator[bytes]]:
    """Return media type and content of a file; raises `NotFound`, and `Conflict` until a data set's rows are checked.

    A data set is read row by row: it may be larger than memory.
    """
    with platform.database.reading() as session:
        if is_of(file_id, RESULTS_ID):
            return "text/csv", iter([step_metrics(session, ended_job(session, file_id).id)])
        dataset = dataset_in(session, number_of(file_id, FILE))
        require_dataset(session, dataset.id)
    return "application/jsonl", _lines(platform, dataset)


def delete_file(platform: Platform, file_id: str) -> None:
    """Delete a data set that nothing uses; raises `NotFound` or `Conflict`."""
    if is_of(file_id, RESULTS_ID):
        with platform.database.reading() as session:
            job = ended_job(session, file_id)
        raise Conflict(f"File '{file_id}' belongs to training job {job.id}, and goes with it (DELETE /api/training).")
    delete_dataset(platform, number_of(file_id, FILE))


def dataset_file(platform: Platform, dataset: Dataset) -> FileObject:
    """Return a data set as a file."""
    return FileObject(
        id=f"{FILE}{dataset.id}",
        bytes=_size(platform, dataset),
        created_at=unix_seconds(dataset.created_at),
        filename=dataset.name,
        purpose=FINE_TUNE,
        status=STATUS[dataset.status],
        status_details=dataset.error,
    )


def _results_file(session: Session, job: TrainingJob) -> FileObject:
    return FileObject(
        id=f"{RESULTS_ID}{job.id}",
        bytes=size_of(session, job),
        created_at=unix_seconds(job.completed_at or job.created_at),
        filename=f"step_metrics_{job.id}.csv",
        purpose=RESULTS,
        status="processed",
    )


def _size(platform: Platform, dataset: Dataset) -> int:
    if dataset.status != "READY":
        return 0
    counted: int | None = (dataset.report or {}).get("bytes")
    # The built-in data set has no report, and those of older versions did not count.
    return counted if counted is not None else sum(map(len, _lines(platform, dataset)))


def _lines(platform: Platform, dataset: Dataset) -> Iterator[bytes]:
    # Arrow is slow to import and large: the API has it once somebody reads rows.
    from tasks.data.dataset_rows import rows_of

    return chat_lines(rows_of(platform.settings.datasets_dir, dataset.source, dataset.content_hash))
