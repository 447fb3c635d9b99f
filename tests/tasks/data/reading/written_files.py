"""Writes rows in every format that is read, as people's own programs do."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tasks.data.examples import Example, Message
from tasks.data.reading.source import open_source

FORMATS = ("jsonl", "json", "csv", "parquet")


def write_rows(rows: Sequence[dict[str, Any]], file_format: str, path: Path) -> None:
    if file_format == "jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8", newline="")
    elif file_format == "json":
        path.write_text(json.dumps(rows, indent=2), "utf-8")
    elif file_format == "csv":
        # A cell is a text: a list in it is written as JSON.
        cells = [
            {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
            for row in rows
        ]
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(cells)
    else:
        pq.write_table(pa.Table.from_pylist(list(rows)), path)


def row_in_shape(shape: str, prompt: str, answer: str) -> dict[str, Any]:
    rows: dict[str, dict[str, Any]] = {
        "messages": {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]},
        "conversations": {"conversations": [{"from": "human", "value": prompt}, {"from": "gpt", "value": answer}]},
        "alpaca": {"instruction": prompt, "input": "", "output": answer},
        "prompt/completion": {"prompt": prompt, "completion": answer},
        "question/answer": {"question": prompt, "answer": answer},
    }
    return rows[shape]


def read_examples(path: Path, columns: dict[str, str] | None = None) -> list[Example]:
    read = list(open_source(path, columns))
    assert [row.error for row in read] == [None] * len(read)
    return [row.example for row in read]


def read_errors(path: Path) -> dict[int, str]:
    return {row.number: row.error for row in open_source(path) if row.error is not None}


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str, **others: Any) -> Message:
    return Message("assistant", content, **others)
