"""The files in a folder of the operator's that a data set can be made of by naming them."""

from pathlib import Path


def local_file(name: str, folder: Path) -> Path | None:
    """Return the file `name` in `folder`, with or without its ending; None if there is none."""
    return next((path for path in (folder / name, *sorted(folder.glob(f"{name}.*"))) if path.is_file()), None)
