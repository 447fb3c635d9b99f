"""From a data set's record to its rows: built in and made on this machine, or uploaded and stored."""

from collections.abc import Callable
from pathlib import Path

from configs.dataset import STDLIB_DOCSTRINGS
from tasks.data.examples import Example
from tasks.data.rows import ExampleRows, ListedExamples
from tasks.data.stdlib_docstrings import stdlib_docstring_examples
from tasks.data.store import StoredDataset
from tasks.data.stored_examples import read_examples, write_examples

_BUILT_IN: dict[str, Callable[[], list[Example]]] = {STDLIB_DOCSTRINGS: stdlib_docstring_examples}


def rows_of(datasets_dir: Path, source: str, content_hash: str | None) -> ExampleRows:
    """Return a data set's rows; those of a built-in one have no `content_hash`, and are made when first asked for.

    They are made once: a newer Python must not change the data of a paused job.
    """
    if content_hash is not None:
        return StoredDataset(datasets_dir / content_hash)
    path = datasets_dir / f"{source}.jsonl"
    if not path.exists():
        write_examples(_BUILT_IN[source](), path)
    return ListedExamples(read_examples(path))


def tokens_dir(datasets_dir: Path, content_hash: str | None) -> Path:
    """Return the folder that keeps a data set's tokens; an uploaded one's go when it is deleted."""
    return datasets_dir / content_hash if content_hash is not None else datasets_dir
