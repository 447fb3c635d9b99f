"""Atomic writes: complete or not at all, whatever fails in between; the old one stays until the new one is in place."""

from pathlib import Path

import pytest

from tasks.atomic_files import StagingFolder, atomic_file, publish_folder


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def test_a_file_is_replaced_when_its_block_ends(tmp_path):
    path = tmp_path / "new" / "file"
    for text in ("first", "second"):
        with atomic_file(path) as file:
            file.write(text)
        assert contents(tmp_path) == {"new/file": text}


def test_a_block_that_raises_leaves_the_file_as_it_was_and_nothing_beside_it(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")

    def write_half() -> None:
        with atomic_file(path) as file:
            file.write("half")
            raise InterruptedError

    with pytest.raises(InterruptedError):
        write_half()
    assert contents(tmp_path) == {"file": "old"}


def test_a_folder_replaces_the_one_of_its_name(tmp_path):
    for text in ("first", "second"):
        staging = StagingFolder(tmp_path, "model")
        (staging.path / "inner").mkdir()
        (staging.path / "inner" / "weights").write_text(text)
        staging.publish(tmp_path / "model")
        staging.close()
        assert contents(tmp_path) == {"model/inner/weights": text}


def test_a_folder_that_is_not_published_is_removed(tmp_path):
    staging = StagingFolder(tmp_path, "model")
    (staging.path / "weights").write_text("half")
    staging.close()
    staging.close()
    assert list(tmp_path.iterdir()) == []


def test_a_publication_that_fails_between_its_renames_leaves_the_old_folder(tmp_path):
    folder, staging = tmp_path / "model", tmp_path / "staging"
    for path, text in ((folder, "old"), (staging, "new")):
        path.mkdir()
        (path / "weights").write_text(text)
    tmp_path.joinpath("model.replaced").mkdir()  # of an earlier one that was interrupted
    with pytest.raises(FileNotFoundError):
        publish_folder(tmp_path / "absent", folder)
    assert contents(folder) == {"weights": "old"}
    folder.rename(tmp_path / "model.replaced")  # as if interrupted between the two renames
    publish_folder(staging, folder)
    assert contents(tmp_path) == {"model/weights": "new"}
