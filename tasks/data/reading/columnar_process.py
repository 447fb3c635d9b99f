"""The process that unpacks a Parquet or Arrow file: it writes the rows to its output, one JSON object a line.

    python -m tasks.data.reading.columnar_process FILE [COLUMN ...]

Without columns it writes one line, the list of the file's columns. Where the file cannot be read it exits with 1 and
one sentence on its error output.
"""

import json
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MEMORY_BYTES = 2**30
"""The most memory that this process may take."""

# Few, as each may stand for megabytes; more would hardly be faster.
_BATCH_ROWS = 64
_READ_BYTES = 2**20
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"


def main() -> int:
    """Write what was asked for; return the exit code."""
    _, allowed = resource.getrlimit(resource.RLIMIT_DATA)
    limit = MEMORY_BYTES if allowed == resource.RLIM_INFINITY else min(MEMORY_BYTES, allowed)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    import pyarrow as pa

    # The other allocators reserve more than they use, which the limit would count.
    pa.set_memory_pool(pa.system_memory_pool())
    path, names = Path(sys.argv[1]), sys.argv[2:]
    try:
        for lines in _rows(path, names) if names else [json.dumps(_columns(path)) + "\n"]:
            sys.stdout.buffer.write(lines.encode())
        sys.stdout.buffer.flush()
    except MemoryError:
        return _fail(f"a few rows of it unpack to more than {MEMORY_BYTES >> 20} MiB; write shorter rows")
    except (pa.ArrowException, OSError, ValueError, TypeError) as error:
        return _fail(str(error).splitlines()[0])
    return 0


def _columns(path: Path) -> list[str]:
    names: list[str] = _schema(path).names
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"it has two columns of the name {twice}")
    return names


def _rows(path: Path, names: list[str]) -> Iterator[str]:
    """Yield the rows of a few at a time, as JSON lines."""
    from tasks.data.reading.columnar_types import has_map, pruner, require_json_type

    prune = {}
    # Only where there are maps: to ask for them takes Arrow twice the time.
    maps = None
    for field in _schema(path):
        if field.name in names:
            require_json_type(field.name, field.type)
            if pruned := pruner(field.type):
                prune[field.name] = pruned
            if has_map(field.type):
                maps = "strict"
    is_empty = True
    for batch in _BATCHES[_kind(path)](path, names):
        is_empty = is_empty and not batch.num_rows
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            rows = batch.slice(start, _BATCH_ROWS).to_pylist(maps_as_pydicts=maps)
            for name, pruned in prune.items():
                for row in rows:
                    if row[name] is not None:
                        row[name] = pruned(row[name])
            yield "".join([json.dumps(row, ensure_ascii=False) + "\n" for row in rows])
    if is_empty:
        raise ValueError("it holds no rows")


def _kind(path: Path) -> str:
    with path.open("rb") as file:
        return {b"PAR1": "parquet", b"ARRO": "file"}.get(file.read(4), "stream")


def _schema(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = _kind(path)
    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            return file.schema_arrow
    # Mapped, as the record batches of an Arrow file may be larger than what this process may take.
    with pa.memory_map(str(path)) as source:
        return (pa.ipc.open_file if kind == "file" else pa.ipc.open_stream)(source).schema


def _parquet_batches(path: Path, names: list[str]) -> Iterator[Any]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
        yield from file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False)


def _file_batches(path: Path, names: list[str]) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source, options=_options(path, names))
        for number in range(reader.num_record_batches):
            yield _validated(reader.get_batch(number))


def _stream_batches(path: Path, names: list[str]) -> Iterator[Any]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        for batch in pa.ipc.open_stream(source, options=_options(path, names)):
            yield _validated(batch)
        read = source.tell()
        if read < source.size():
            raise ValueError(f"more follows after the end of the stream, at byte {read + 1}")
        source.seek(read - len(_STREAM_END))
        if source.read() != _STREAM_END:
            raise ValueError("its end is missing; it was cut off, or its writer was not closed")


_BATCHES = {"parquet": _parquet_batches, "file": _file_batches, "stream": _stream_batches}


def _options(path: Path, names: list[str]) -> Any:
    import pyarrow as pa

    schema = _schema(path)
    included = [schema.get_field_index(name) for name in names]
    return pa.ipc.IpcReadOptions(use_threads=False, included_fields=included)


def _validated(batch: Any) -> Any:
    """Return the batch; Arrow takes its offsets and indices as the file has them, wherever they point to."""
    batch.validate(full=True)
    return batch


def _fail(sentence: str) -> int:
    sys.stderr.write(sentence)
    return 1


if __name__ == "__main__":
    sys.exit(main())
