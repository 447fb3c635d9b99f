"""The job's own record of every step, in its folder: what MLflow has not got yet is sent from here."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True, slots=True)
class TraceRow:
    """One step, or one held-out loss, as it was measured."""

    step: int
    metrics: dict[str, float]
    epoch: int | None = None
    """Pass over the rows, from 1; of a step."""


class Trace:
    """An append-only file of JSON lines; a line that was cut by a crash is ignored."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: TextIO | None = None

    def append(self, step: int, metrics: dict[str, float], **more: Any) -> None:
        """Write a row; the operating system has it when this returns, so the process may be killed."""
        if self._file is None:
            self._repair()
            self._file = self._path.open("a", encoding="utf-8")
        self._file.write(json.dumps({"step": step, "metrics": metrics, **more}) + "\n")
        self._file.flush()

    def rows(self) -> Iterator[TraceRow]:
        """Yield the rows as written, each (step, metric) once: steps repeated after a crash are equal."""
        seen: set[tuple[int, str]] = set()
        if not self._path.exists():
            return
        with self._path.open(encoding="utf-8") as file:
            for line in file:
                if not line.endswith("\n"):
                    return
                row = json.loads(line)
                new = {name: value for name, value in row["metrics"].items() if (row["step"], name) not in seen}
                seen |= {(row["step"], name) for name in new}
                if new:
                    yield TraceRow(row["step"], new, row.get("epoch"))

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            # What a full disk had no room for was said by `append`; a second error would hide that one.
            with suppress(OSError):
                self._file.close()
            self._file = None

    def _repair(self) -> None:
        """Cut off half a line, so that the next row starts on a line of its own."""
        if not self._path.exists():
            return
        content = self._path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            with self._path.open("rb+") as file:
                file.truncate(whole)
