"""Parquet and Arrow files, unpacked by a process of their own.

A kilobyte of Parquet can stand for terabytes of repeated text, and what unpacks it is native code that a crafted file
may crash. So that is done in a process with limited memory, and only its output, JSON lines, is read here.
"""

import subprocess
import sys
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tasks.data.examples import DatasetError
from tasks.data.reading.json_lines import raw_lines
from tasks.data.reading.records import MAX_COLUMNS, RawLine, parse_json

# The two processes take turns less often than with the 64 KiB that a pipe has otherwise.
_PIPE_BYTES = 2**20


def column_names(path: Path) -> list[str]:
    """Return the names of the columns. Raises DatasetError for a file that is broken."""
    with _unpacked(path, []) as output:
        names = output.read()
    columns: list[str] = parse_json(names.decode())
    if len(columns) > MAX_COLUMNS:
        raise DatasetError(f"the file has {len(columns)} columns; at most {MAX_COLUMNS} are accepted")
    return columns


def raw_columnar(path: Path, columns: Collection[str]) -> Iterator[RawLine]:
    """Yield the rows as lines of JSON, numbered from 1.

    They have these columns, at least one; the others are not even unpacked. Raises DatasetError where the file is
    broken or has no rows, or where a few rows do not fit into memory.
    """
    with _unpacked(path, columns) as output:
        yield from raw_lines(output)


@contextmanager
def _unpacked(path: Path, columns: Collection[str]) -> Iterator[IO[bytes]]:
    """Run the process and give its output; raise DatasetError if it failed, end it if the reader stops."""
    command = [sys.executable, "-m", "tasks.data.reading.columnar_process", str(path), *columns]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            bufsize=_PIPE_BYTES,
            pipesize=_PIPE_BYTES,
        ) as process,
    ):
        assert process.stdout is not None
        try:
            yield process.stdout
            exit_code = process.wait()
        finally:
            process.kill()
        if exit_code:
            errors.seek(0)
            reason = errors.read().decode("utf-8", "replace").strip().splitlines()[-1:]
            # A crash leaves no sentence of ours: a negative code is the signal that ended the process.
            said = reason[0] if exit_code > 0 and reason else f"its reader ended with code {exit_code}"
            raise DatasetError(f"the {_title(path)} file cannot be read: {said}")


def _title(path: Path) -> str:
    with path.open("rb") as file:
        return "Parquet" if file.read(4) == b"PAR1" else "Arrow"
