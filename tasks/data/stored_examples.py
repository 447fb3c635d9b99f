"""Examples as a file of JSON lines, written atomically: for a built-in data set, which is small."""

import json
from collections.abc import Sequence
from pathlib import Path

from tasks.atomic_files import atomic_file
from tasks.data.examples import Example


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """Write the examples, one JSON object a line; the file appears complete, or stays as it was."""
    with atomic_file(path) as file:
        for example in examples:
            file.write(example.as_json() + "\n")


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
