"""What a backup holds: folders of files that never change once they have their name, and a manifest of everything."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT = 1
MANIFEST = "manifest.json"
DATABASES, FILES = "databases", "files"
FOLDERS = ("jobs", "adapters", "weights", "datasets", "evaluations", "mlartifacts")
"""Of the data folder; logs, snapshots and what the process supervisor writes are not kept, nor are base models."""
_UNFINISHED = (".unfinished-", ".building")
"""In names of what has not got its name yet."""
_NOT_KEPT = ("lock",)


class BackupError(Exception):
    """A backup can't be made or restored; the message says why and what to do."""


@dataclass(frozen=True)
class Manifest:
    """What a backup holds, written last: a folder without one is no backup."""

    platform_version: str
    created_at: str
    """ISO 8601, UTC."""
    databases: dict[str, dict[str, str]]
    """For each of `platform`, `mlflow` and `prefect` that had tables: `file` (`NAME.db` or `NAME.dump`), `revision`."""
    files: dict[str, str]
    """SHA-256 of every file, by its path in the backup."""
    format: int = FORMAT

    def write(self, backup: Path) -> None:
        """Write it into a backup's folder, onto the disk itself."""
        with (backup / MANIFEST).open("w", encoding="utf-8") as file:
            json.dump(asdict(self), file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())

    @classmethod
    def read(cls, backup: Path) -> "Manifest":
        """Return a backup's manifest. Raises BackupError."""
        try:
            found: dict[str, Any] = json.loads((backup / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise BackupError(f"{backup} is no finished backup: it has no {MANIFEST}.") from None
        except (OSError, ValueError) as error:
            raise BackupError(f"The manifest of {backup} can't be read: {error}.") from error
        if found.get("format") != FORMAT:
            raise BackupError(
                f"{backup} has the format {found.get('format')!r}, but this version of the platform reads {FORMAT}: "
                "restore it with the version that made it, or a newer one."
            )
        return cls(**found)

    def verify(self, backup: Path) -> None:
        """Raise BackupError unless every file is there as it was written, and no other."""
        present = set(files_below(backup)) - {MANIFEST}
        missing, unknown = sorted(self.files.keys() - present), sorted(present - self.files.keys())
        changed = [name for name in sorted(present & self.files.keys()) if sha256(backup / name) != self.files[name]]
        for names, what in ((missing, "lacks"), (changed, "has another content of"), (unknown, "has besides")):
            if names:
                more = f" and {len(names) - 1} more" if len(names) > 1 else ""
                raise BackupError(f"The backup {backup} is damaged: it {what} {names[0]}{more}.")


def copy_new(source: Path, target: Path, previous: Path | None) -> None:
    """Copy a folder's files that `target` lacks or has otherwise; those that are deleted meanwhile are left out.

    A file that is in `previous` with the same size and time becomes a hard link to it.
    """
    for name in _to_keep(source):
        file, copy = source / name, target / name
        with suppress(FileNotFoundError):
            if copy.exists() and _same(file, copy):
                continue
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.unlink(missing_ok=True)
            if previous is None or not _linked(previous / name, copy, file):
                _copy(file, copy)


def files_below(folder: Path) -> Iterator[str]:
    """Yield the path of every file in a folder, relative to it, with `/` between names."""
    for where, _, names in os.walk(folder):
        for name in names:
            yield (Path(where) / name).relative_to(folder).as_posix()


def sha256(path: Path) -> str:
    """Return a file's hash in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folders(folder: Path) -> None:
    """Wait until the names in a folder, and in those below it, are on the disk."""
    for where, _, _ in os.walk(folder):
        descriptor = os.open(where, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _to_keep(folder: Path) -> list[str]:
    """Return the files to copy; records that grow last, so that they tell of all that other files hold."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not any(mark in name for mark in _UNFINISHED)]
        kept = (name for name in names if name not in _NOT_KEPT and not any(mark in name for mark in _UNFINISHED))
        found += [(Path(where) / name).relative_to(folder).as_posix() for name in kept]
    return sorted(found, key=lambda name: (name.endswith(".jsonl"), name))


def _same(file: Path, copy: Path) -> bool:
    one, other = file.stat(), copy.stat()
    return (one.st_size, one.st_mtime_ns) == (other.st_size, other.st_mtime_ns)


def _linked(earlier: Path, copy: Path, file: Path) -> bool:
    try:
        if not _same(file, earlier):
            return False
        copy.hardlink_to(earlier)
    except OSError:
        # Not there, or on another disk.
        return False
    return True


def _copy(file: Path, copy: Path) -> None:
    shutil.copy2(file, copy)
    with copy.open("rb") as written:
        os.fsync(written.fileno())
