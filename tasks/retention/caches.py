"""What is made again when it is needed: tokens, compiled kernels; temporary folders of runs, old snapshots."""

import os
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import tasks
from registry.repositories.retention import RetentionRepository
from tasks.retention.files import abandoned, entries, found, touched, used_by_a_process
from tasks.retention.rule import Context, Found

RUN_FOLDERS = "flow-run-*"
"""How the worker names the working folder of a flow run (`flows.worker.warm_worker`)."""
TOKENS_PREFIX, TOKENS_FILE = "tokens-", "tokens.arrow"
"""As `tasks.data.token_cache` names them, which brings transformers."""
KERNELS = Path(tasks.__file__).parent
KEPT_SNAPSHOTS = 3


def tokens(context: Context, before: datetime) -> Iterator[Found]:
    """Yield tokens of data sets that nobody has read, while nothing runs that may be about to."""
    with context.database.reading() as session:
        if RetentionRepository(session).anything_unfinished():
            return
    folder = context.settings.datasets_dir
    for path in (*folder.glob(f"{TOKENS_PREFIX}*"), *folder.glob(f"*/{TOKENS_PREFIX}*")):
        if path.is_dir() and _read_at(path / TOKENS_FILE) < before and abandoned(context, path, before):
            yield found(path)


def kernels(context: Context, before: datetime) -> Iterator[Found]:
    """Yield kernels that numba compiled, of a version that nobody has run; they lie beside the source."""
    for path in KERNELS.rglob("__pycache__/*.nb[ci]"):
        if os.access(path.parent, os.W_OK) and _read_at(path) < before and abandoned(context, path, before):
            yield found(path)


def run_folders(context: Context, before: datetime) -> Iterator[Found]:
    """Yield working folders of flow runs that were killed: this user's, and used by no process."""
    for path in Path(tempfile.gettempdir()).glob(RUN_FOLDERS):
        try:
            own = path.stat().st_uid == os.getuid()
        except FileNotFoundError:
            continue
        if own and abandoned(context, path, before) and not used_by_a_process(path):
            yield found(path, lambda path=path: not used_by_a_process(path))  # type: ignore[misc]


def snapshots(context: Context, before: datetime) -> Iterator[Found]:
    """Yield snapshots of databases, but for the newest three."""
    newest_first = sorted(entries(context.settings.snapshots_dir), key=touched, reverse=True)
    for path in newest_first[KEPT_SNAPSHOTS:]:
        if abandoned(context, path, before):
            yield found(path)


def _read_at(path: Path) -> datetime:
    """Return when a file was last read or written, as far as the file system notes it; long ago if it is missing."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return datetime.min
    return datetime.fromtimestamp(max(status.st_atime, status.st_mtime), UTC).replace(tzinfo=None)
