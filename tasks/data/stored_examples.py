"""Examples as a file of JSON lines, written whole or not at all."""

import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tasks.data.examples import Example


def write_examples(examples: Sequence[Example], path: Path) -> None:
    """Write the examples, one JSON object a line; the file appears complete, or stays as it was."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, delete=False) as file:
        for example in examples:
            file.write(json.dumps(asdict(example)) + "\n")
        file.flush()
        os.fsync(file.fileno())
    Path(file.name).replace(path)


def read_examples(path: Path) -> list[Example]:
    """Return the examples in the order they were written."""
    with path.open(encoding="utf-8") as file:
        return [Example(**json.loads(line)) for line in file]
