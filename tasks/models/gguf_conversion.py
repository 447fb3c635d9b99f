"""The process that converts the GGUF file in a model's folder: `python -m tasks.models.gguf_conversion FOLDER`."""

import json
import shutil
import sys
import tempfile
from pathlib import Path

from registry.fetching import answer
from registry.gguf_file import gguf_files
from tasks.atomic_files import make_readable, sync, sync_folder
from tasks.models.gguf_reading import convert

MANIFEST = "conversion.json"
LAST = "config.json"
"""Without it a folder holds no model: it is moved there when all the rest lies there."""


def convert_folder(folder: Path) -> Path:
    """Write the model of the folder's GGUF file beside it, whole or not at all; return the folder."""
    for left_over in folder.glob(".converting-*"):
        shutil.rmtree(left_over)
    file = gguf_files(folder)[0]
    with tempfile.TemporaryDirectory(prefix=".converting-", dir=folder) as work:
        finished = Path(work)
        convert(file, finished)
        (finished / MANIFEST).write_text(json.dumps({"file": file.name}) + "\n", encoding="utf-8")
        make_readable(finished)
        sync_folder(finished)
        for written in sorted(finished.iterdir(), key=lambda path: path.name == LAST):
            written.replace(folder / written.name)
        sync(folder)
    return folder


if __name__ == "__main__":
    answer(lambda: convert_folder(Path(sys.argv[1])))
