"""The canonical rows of an uploaded data set on disk: written atomically, read memory-mapped."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tasks.atomic_files import StagingFolder
from tasks.data.arrow_file import ROWS_PER_BATCH, SIZE_PER_BATCH, MappedFile, fixed, numbers, read_batches, texts
from tasks.data.examples import DatasetError, Example
from tasks.data.rows import HASH_BYTES

ROWS_FILE = "rows.arrow"
REPORT_FILE = "report.json"
SCHEMA = pa.schema({"example": pa.large_string(), "hash": pa.binary(HASH_BYTES), "number": pa.int64()})


class StoredDataset:
    """The rows of a data set, in the order of their source. Raises DatasetError if the file is missing or damaged."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self._rows = MappedFile(folder / ROWS_FILE)
        except (OSError, pa.ArrowInvalid) as error:
            raise DatasetError(f"the stored data set {folder.name} is missing or damaged; upload it again") from error

    @property
    def fingerprint(self) -> str:
        """64 hex digits over the rows in their order."""
        return self.folder.name

    @property
    def report(self) -> dict[str, Any]:
        """What was found when the rows were read, as it was given to `StoreWriter.finish`."""
        report: dict[str, Any] = json.loads((self.folder / REPORT_FILE).read_text(encoding="utf-8"))
        return report

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Example]:
        for batch in read_batches(self.folder / ROWS_FILE):
            yield from map(Example.from_json, batch.column("example").to_pylist())

    def example(self, position: int) -> Example:
        """Return one row."""
        batch, place = self._rows.find(position)
        return Example.from_json(batch.column("example")[place].as_py())

    def number(self, position: int) -> int:
        """Return where a row stands in the file it came from: its line, or its place in a list."""
        batch, place = self._rows.find(position)
        return int(batch.column("number")[place].as_py())

    @property
    def hashes(self) -> NDArray[np.uint8]:
        """The rows' content hashes: (rows, 32) bytes."""
        columns = [(batch.column("hash").buffers()[1], batch.num_rows) for batch in self._rows.batches]
        parts = [np.frombuffer(buffer, np.uint8, rows * HASH_BYTES) for buffer, rows in columns]
        return np.concatenate(parts).reshape(-1, HASH_BYTES)


class StoreWriter:
    """Writes rows one after the other into a temporary folder, which `finish` renames into place.

    Use it in a `with` block: without `finish`, nothing is left behind.
    """

    def __init__(self, datasets_dir: Path) -> None:
        self._datasets_dir = datasets_dir
        self._staging = StagingFolder(datasets_dir, "dataset")
        self._file = pa.OSFile(str(self._staging.path / ROWS_FILE), "wb")
        self._writer = pa.ipc.new_file(self._file, SCHEMA)
        self._digest = hashlib.sha256()
        self._waiting: list[tuple[bytes, bytes, int]] = []
        self._bytes = 0
        self.rows = 0

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_file()
        self._staging.close()

    def add(self, number: int, example: Example) -> None:
        """Append a row; `number` says where it stands in its source."""
        self.add_written(number, example.as_json().encode(), example.digest)

    def add_written(self, number: int, content: bytes, digest: bytes) -> None:
        """Append a row of which the JSON (`Example.as_json`) and the hash (`Example.digest`) have been made already."""
        self._digest.update(digest)
        self._waiting.append((content, digest, number))
        self._bytes += len(content)
        self.rows += 1
        if len(self._waiting) >= ROWS_PER_BATCH or self._bytes >= SIZE_PER_BATCH:
            self._write()

    def finish(self, report: Mapping[str, Any]) -> StoredDataset:
        """Give the folder its name, the hash of its content, once all of it is on the disk.

        A data set with the same rows that is there already stays, with its own report. Raises DatasetError for no rows.
        """
        if self.rows == 0:
            raise DatasetError("the data set has no row")
        self._end_file()
        (self._staging.path / REPORT_FILE).write_text(json.dumps(report, indent=2), encoding="utf-8")
        folder = self._datasets_dir / self._digest.hexdigest()
        try:
            return StoredDataset(folder)
        except DatasetError:
            self._staging.publish(folder)
            return StoredDataset(folder)

    def _write(self) -> None:
        contents, hashes, places = zip(*self._waiting, strict=True)
        self._writer.write_batch(
            pa.record_batch(
                [texts(contents), fixed(hashes, HASH_BYTES), numbers(np.array(places, np.int64))], schema=SCHEMA
            )
        )
        self._waiting, self._bytes = [], 0

    def _end_file(self) -> None:
        if self._file.closed:
            return
        if self._waiting:
            self._write()
        self._writer.close()
        self._file.close()
