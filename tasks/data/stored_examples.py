"""Examples as a file of JSON lines, written whole or not at all: for a built-in data set, which is small."""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tasks.data.examples import Example


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """Write the examples, one JSON object a line; the file appears complete, or stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        for example in examples:
            file.write(example.as_json() + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def read_examples(path: Path) -> list[Example]:
    """Return the examples in the order they were written."""
    with path.open(encoding="utf-8") as file:
        return [_example(line) for line in file]


def _example(line: str) -> Example:
    value = json.loads(line)
    # As files were written before there were conversations; a paused job may still need them.
    if value.get("kind") == "instruction":
        return Example.question(value["prompt"], value["answer"])
    return Example.from_json(line)
