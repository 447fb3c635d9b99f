"""A disk without space is named as such, whichever library found out."""

import sqlite3
from pathlib import Path

import pytest
from safetensors import SafetensorError
from sqlalchemy.exc import OperationalError

from tasks.job.flow_run import DiskFull, full_disks_named

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_is_named_with_what_to_do(tmp_path):
    with pytest.raises(DiskFull, match=r"free some space, then restart the job"), full_disks_named(tmp_path):
        FULL.write_text("more than nothing")


def test_so_is_one_that_a_library_reports_in_its_own_words(tmp_path):
    # As safetensors raises it on a full disk, word for word; its file can't be pointed at /dev/full, which it replaces.
    words = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(DiskFull), full_disks_named(tmp_path):
        raise SafetensorError(words)


def test_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), full_disks_named(tmp_path):
        (tmp_path / "missing").read_text()


def test_a_disk_that_is_full_for_a_database_is_named_too_and_once(tmp_path):
    said = OperationalError("COMMIT", {}, sqlite3.OperationalError("database or disk is full"))
    with pytest.raises(DiskFull) as raised, full_disks_named(tmp_path / ".."), full_disks_named(tmp_path):
        raise said
    assert str(raised.value).count("free some space") == 1
    assert f"{tmp_path} is full" in str(raised.value)
