import hashlib
import subprocess
import sys
import tracemalloc

import pytest

from tasks.data.examples import DatasetError, Example, Message
from tasks.data.rows import ListedExamples
from tasks.data.store import StoredDataset, StoreWriter

ROWS = [
    Example.question("naïve?\nyes", "🦊\u2028line"),
    Example(text="plain"),
    Example((Message("assistant", "", tool_calls="[{}]"),), tools="[]"),
    Example.question("naïve?\nyes", "🦊\u2028line"),
]


def store(rows: list[Example], folder, report=None) -> StoredDataset:
    with StoreWriter(folder) as writer:
        for number, row in enumerate(rows, start=1):
            writer.add(10 * number, row)
        return writer.finish(report or {"rows": len(rows)})


def content_name(rows: list[Example]) -> str:
    return hashlib.sha256(b"".join(bytes.fromhex(row.content_hash) for row in rows)).hexdigest()


def test_rows_survive_in_their_order_with_their_hashes_and_numbers(tmp_path):
    dataset = store(ROWS, tmp_path, {"warnings": ["naïve"]})
    again = StoredDataset(dataset.folder)
    assert len(again) == 4
    assert list(again) == ROWS
    assert [again.example(position) for position in range(4)] == ROWS
    assert [again.number(position) for position in range(4)] == [10, 20, 30, 40]
    assert again.hashes.tolist() == ListedExamples(ROWS).hashes.tolist()
    assert again.report == {"warnings": ["naïve"]}
    for position in (-1, 4):
        with pytest.raises(IndexError):
            again.example(position)


def test_rows_in_many_batches_are_found(tmp_path):
    rows = [Example(text=f"text number {number} ") for number in range(9000)]
    dataset = store(rows, tmp_path)
    assert list(dataset) == rows
    for position in (0, 4095, 4096, 8191, 8192, 8999):
        assert dataset.example(position) == rows[position]
        assert dataset.number(position) == 10 * (position + 1)


def test_the_folder_is_named_after_the_content(tmp_path):
    dataset = store(ROWS, tmp_path)
    assert dataset.fingerprint == dataset.folder.name == content_name(ROWS)
    assert store(ROWS[::-1], tmp_path).fingerprint != dataset.fingerprint
    assert {path.name for path in dataset.folder.iterdir()} == {"rows.arrow", "report.json"}


def test_the_same_rows_again_leave_what_is_there(tmp_path):
    first = store(ROWS, tmp_path, {"first": True})
    inode = (first.folder / "rows.arrow").stat().st_ino
    second = store(ROWS, tmp_path, {"first": False})
    assert (second.folder / "rows.arrow").stat().st_ino == inode
    assert second.report == {"first": True}
    assert list(tmp_path.iterdir()) == [first.folder]


@pytest.mark.parametrize("damage", ["removed", "truncated", "emptied"])
def test_damaged_rows_are_refused_and_an_upload_mends_them(tmp_path, damage):
    dataset = store(ROWS, tmp_path)
    path = dataset.folder / "rows.arrow"
    content = path.read_bytes()
    path.unlink()
    if damage != "removed":
        path.write_bytes(content[:-20] if damage == "truncated" else b"")
    with pytest.raises(DatasetError, match="missing or damaged; upload it again"):
        StoredDataset(dataset.folder)
    assert list(store(ROWS, tmp_path)) == ROWS


def test_a_write_that_is_not_finished_leaves_nothing(tmp_path):
    with StoreWriter(tmp_path) as writer:
        writer.add(1, ROWS[0])
    with StoreWriter(tmp_path) as writer, pytest.raises(DatasetError, match="has no row"):
        writer.finish({})
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_behind_is_cleared_and_a_living_one_is_let_be(tmp_path):
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from tasks.data.examples import Example\n"
        "from tasks.data.store import StoreWriter\n"
        "StoreWriter(Path(sys.argv[1])).add(1, Example(text='on the way'))\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    (left_behind,) = tmp_path.iterdir()
    with StoreWriter(tmp_path) as living:
        assert not left_behind.exists()
        other = store(ROWS, tmp_path)
        living.add(1, ROWS[1])
        assert list(living.finish({})) == [ROWS[1]]
    assert {path.name for path in tmp_path.iterdir()} == {other.fingerprint, content_name(ROWS[1:2])}


def test_writing_and_reading_hold_few_rows_in_memory(tmp_path):
    text = "a long text " * 1000  # 12 kB a row, 24 MB in all
    tracemalloc.start()
    try:
        with StoreWriter(tmp_path) as writer:
            for number in range(2000):
                writer.add(number, Example(text=f"{number} {text}"))
            dataset = writer.finish({})
        assert sum(1 for _ in dataset) == 2000
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20_000_000
