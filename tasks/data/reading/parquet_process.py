"""The process that unpacks a Parquet file: it writes the rows to its output, one JSON object a line.

    python -m tasks.data.reading.parquet_process FILE [COLUMN ...]

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
    except (pa.ArrowException, OSError, ValueError) as error:
        return _fail(str(error).splitlines()[0])
    return 0


def _columns(path: Path) -> list[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        if not file.metadata.num_rows:
            raise ValueError("it holds no rows")
        names: list[str] = file.schema_arrow.names
        return names


def _rows(path: Path, names: list[str]) -> Iterator[str]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path, buffer_size=_READ_BYTES, pre_buffer=False) as file:
        for field in file.schema_arrow:
            if field.name in names:
                _require_json_type(field.name, field.type)
        for batch in file.iter_batches(_BATCH_ROWS, columns=names, use_threads=False):
            yield "".join([json.dumps(row, ensure_ascii=False) + "\n" for row in batch.to_pylist()])


def _require_json_type(name: str, kind: Any) -> None:
    """Raise ValueError for dates, bytes and the like, which no example is made of."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        _require_json_type(name, kind.value_type)
    elif types.is_struct(kind):
        for place in range(kind.num_fields):
            _require_json_type(f"{name}.{kind.field(place).name}", kind.field(place).type)
    elif not (
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_boolean(kind)
        or types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_null(kind)
    ):
        raise ValueError(f"the column {name} holds {kind}; texts, numbers, lists and structs of them are accepted")


def _fail(sentence: str) -> int:
    sys.stderr.write(sentence)
    return 1


if __name__ == "__main__":
    sys.exit(main())
