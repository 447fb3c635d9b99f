"""The tokenized rows of a data set on disk: made once for each tokenizer, written atomically."""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tasks.atomic_files import StagingFolder, atomic_file
from tasks.data.collection import older_objects_left_alone
from tasks.data.fingerprint import TokenizerContent, tokens_fingerprint
from tasks.data.rows import ExampleRows
from tasks.data.tokenized_rows import TokenTable, TokenWriter
from tasks.data.tokenizing import TokenBatch, token_batches

TOKENS_FILE = "tokens.arrow"
MANIFEST_FILE = "manifest.json"
LONGEST_WAIT_SECONDS = 600.0


def tokens_folder(cache_dir: Path, hashes: NDArray[np.uint8], tokenizer: TokenizerContent) -> Path:
    """Return where the tokens of the rows with these hashes are, or will be."""
    return cache_dir / f"tokens-{tokens_fingerprint(hashes, tokenizer)}"


def cached_tokens(rows: ExampleRows, tokenizer: PreTrainedTokenizerBase, folder: Path) -> TokenTable:
    """Return all rows tokenized, from `folder` (see `tokens_folder`) if that was done before.

    A damaged file is made again. Its hash is compared when its size or time are not those it was written with: hashing
    gigabytes at each start would take longer than to begin. Of processes that want the same rows at once, one works
    and the others wait for it. Raises DatasetError as `Renderer.render` does.
    """
    return cached_table(folder, lambda: token_batches(rows, tokenizer))


def cached_table(folder: Path, batches: Callable[[], Iterator[TokenBatch]]) -> TokenTable:
    """Return the rows in `folder`, made by `batches` if they are not there; see `cached_tokens`."""
    with _only_one_process(folder):
        if (table := _open(folder)) is None:
            with TokenCacheWriter(folder.parent) as writer, older_objects_left_alone():
                for batch in batches():
                    writer.write(batch)
                writer.publish(folder)
            table = TokenTable(folder / TOKENS_FILE)
    return table


class TokenCacheWriter:
    """Writes the tokens of a data set whose content, and so whose name, may be known only at the end.

    Use it in a `with` block: without `finish`, nothing is left behind.
    """

    def __init__(self, cache_dir: Path) -> None:
        self._staging = StagingFolder(cache_dir, "tokens")
        self._tokens = TokenWriter(self._staging.path / TOKENS_FILE)

    def __enter__(self) -> "TokenCacheWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tokens.close()
        self._staging.close()

    def write(self, batch: TokenBatch) -> None:
        """Append uncut rows."""
        self._tokens.write(batch)

    def finish(self, folder: Path) -> None:
        """Put the tokens where `cached_tokens` looks for them, unless they are there already."""
        with _only_one_process(folder):
            if _open(folder) is None:
                self.publish(folder)

    def publish(self, folder: Path) -> None:
        """Rename the tokens into place; the caller holds the lock."""
        self._tokens.close()
        with (self._staging.path / TOKENS_FILE).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        _write_manifest(self._staging.path, digest)
        self._staging.publish(folder)


@contextmanager
def _only_one_process(folder: Path) -> Iterator[None]:
    folder.parent.mkdir(parents=True, exist_ok=True)
    # The kernel takes this lock from a process that dies, so a crash leaves nobody waiting. One that is stopped keeps
    # it: then the work is done twice, with the same result.
    lock = FileLock(folder.parent / f"{folder.name}.lock")
    with suppress(Timeout):
        lock.acquire(timeout=LONGEST_WAIT_SECONDS)
    try:
        yield
    finally:
        lock.release()


def _open(folder: Path) -> TokenTable | None:
    """Return the rows of a complete folder; None if it is missing, or is not what was once written."""
    path = folder / TOKENS_FILE
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        if manifest["seen"] != _seen(path):
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != manifest["sha256"]:
                    return None
            _write_manifest(folder, manifest["sha256"])  # the folder was moved or copied
        return TokenTable(path)
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowInvalid):
        return None


def _write_manifest(folder: Path, digest: str) -> None:
    manifest = json.dumps({"sha256": digest, "seen": _seen(folder / TOKENS_FILE)}, indent=2)
    with atomic_file(folder / MANIFEST_FILE) as file:
        file.write(manifest)


def _seen(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]
