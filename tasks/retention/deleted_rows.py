"""Rows of deleted models and data sets, which stay as long as something refers to them."""

from collections.abc import Callable, Collection, Iterator
from datetime import datetime

from registry.repositories.deleted_rows import DeletedRowsRepository
from tasks.retention.rule import Context, Found

ROWS_AT_ONCE = 500
"""The write lock is held for one such batch at a time."""


def models(context: Context, before: datetime, registered_runs: Collection[str]) -> Iterator[Found]:
    """Yield, as one, deleted models that no record needs; what is registered in MLflow was made by those runs."""
    with context.database.reading() as session:
        ids = DeletedRowsRepository(session).models(before, registered_runs)

    def remove(repository: DeletedRowsRepository, batch: list[int]) -> int:
        # Again: something may have come to refer to one of them.
        free = repository.models(before, registered_runs, batch)
        repository.remove_models(free)
        return len(free)

    if ids:
        yield Found(f"{len(ids)} records of deleted models", 0, _in_batches(context, ids, remove), len(ids))


def datasets(context: Context, before: datetime) -> Iterator[Found]:
    """Yield, as one, deleted data sets that no record names."""
    with context.database.reading() as session:
        ids = DeletedRowsRepository(session).datasets(before)
    if ids:
        remove = _in_batches(context, ids, DeletedRowsRepository.remove_datasets)
        yield Found(f"{len(ids)} records of deleted data sets", 0, remove, len(ids))


def _in_batches(
    context: Context, ids: list[int], remove: Callable[[DeletedRowsRepository, list[int]], int]
) -> Callable[[], bool]:
    def remove_all() -> bool:
        removed = 0
        for start in range(0, len(ids), ROWS_AT_ONCE):
            with context.database.transaction() as session:
                removed += remove(DeletedRowsRepository(session), ids[start : start + ROWS_AT_ONCE])
        return removed > 0

    return remove_all
