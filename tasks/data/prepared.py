"""Prepares a data set for training: splits, tokenizes and caches it on disk, once for each content."""

import fcntl
import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.data.examples import DatasetError, Example
from tasks.data.fingerprint import dataset_fingerprint
from tasks.data.report import PreparationReport, RowTally
from tasks.data.split import split_by_hash
from tasks.data.template import tokenize_all
from tasks.data.tokenized_rows import TokenizedRows, write_rows

TRAIN_FILE = "train.arrow"
HELD_OUT_FILE = "held_out.arrow"
MANIFEST_FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class PreparedDataset:
    """Token ids to train on and to evaluate on, memory-mapped from the cache."""

    train: TokenizedRows
    held_out: TokenizedRows
    held_out_examples: list[Example]
    """The texts of `held_out`, row by row, for generation."""
    fingerprint: str
    report: PreparationReport


def prepare(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    cache_dir: Path,
    held_out_fraction: float = 0.1,
) -> PreparedDataset:
    """Return `examples` split and tokenized, from `cache_dir/<fingerprint>` if they were prepared before.

    The cached folder appears whole or not at all, and is checked against the hashes in its manifest each time before
    it is used; a damaged one is made again. Of processes that prepare the same content at once, one works and the
    others wait for it.

    Raises DatasetError if the rows cannot be split (see `split_by_hash`) or rendered (see `render`), or if a side
    keeps no usable row.
    """
    train, held_out = split_by_hash(examples, held_out_fraction)
    fingerprint = dataset_fingerprint(examples, tokenizer, max_seq_length, held_out_fraction)
    folder = cache_dir / fingerprint
    with _only_one_process(cache_dir, fingerprint):
        report = _read_report(folder)
        if report is None:
            report = _build(folder, {TRAIN_FILE: train, HELD_OUT_FILE: held_out}, tokenizer, max_seq_length)
        train_rows, held_out_rows = TokenizedRows(folder / TRAIN_FILE), TokenizedRows(folder / HELD_OUT_FILE)
    held_out_examples = [held_out[position] for position in held_out_rows.positions]
    return PreparedDataset(train_rows, held_out_rows, held_out_examples, fingerprint, report)


@contextmanager
def _only_one_process(cache_dir: Path, fingerprint: str) -> Iterator[None]:
    cache_dir.mkdir(parents=True, exist_ok=True)
    # The kernel takes this lock from a process that dies, so a crash leaves nobody waiting.
    with (cache_dir / f"{fingerprint}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _read_report(folder: Path) -> PreparationReport | None:
    """Return the report of a complete folder; None if it is missing, or is not what was once written."""
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        if any(_file_hash(folder / name) != manifest["files"][name] for name in (TRAIN_FILE, HELD_OUT_FILE)):
            return None
        return PreparationReport(**manifest["report"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _build(
    folder: Path, sides: dict[str, list[Example]], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> PreparationReport:
    """Write both sides into a temporary folder and give it its name last; the caller holds the lock."""
    for leftover in folder.parent.glob(f"{folder.name}.building-*"):
        # Only a process that was killed leaves one behind: a living one would hold the lock.
        shutil.rmtree(leftover)
    building = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=folder.parent))
    try:
        tally = RowTally()
        kept = {}
        for name, side in sides.items():
            usable = tally.usable(tokenize_all(side, tokenizer, max_seq_length))
            kept[name] = write_rows(usable, building / name)
            if kept[name] == 0:
                raise DatasetError(
                    f"none of the {len(side)} rows in {name} keeps an answer token within "
                    f"max_seq_length={max_seq_length}; raise it, or give shorter prompts"
                )
        report = tally.report(train_rows=kept[TRAIN_FILE], held_out_rows=kept[HELD_OUT_FILE])
        files = {name: _file_hash(building / name) for name in sides}
        manifest = json.dumps({"files": files, "report": asdict(report)}, indent=2)
        (building / MANIFEST_FILE).write_text(manifest, encoding="utf-8")
        # No fsync: after a power cut the hashes tell, and the rows are made again.
        if folder.exists():
            shutil.rmtree(folder)
        building.rename(folder)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return report


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
