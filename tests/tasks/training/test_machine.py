"""Free memory is the machine's, or what a container's limits leave of it."""

import psutil
import pytest

from tasks.training.machine import free_memory, gpus, left_in_groups

LIMIT, USED, CACHED = 2_000_000, 1_500_000, 300_000


def test_there_is_some_and_no_more_than_the_machine_has():
    assert 0 < free_memory() <= psutil.virtual_memory().total


def write_group(folder, names, limit):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in zip(names, (limit, USED, f"inactive_file {CACHED}\nactive_file 0\nanon 7"), strict=True):
        (folder / name).write_text(f"{content}\n")


@pytest.mark.parametrize("limited", ["", "box", "box/job"])
def test_the_limits_of_version_2_hold_for_every_group_inside(tmp_path, limited):
    names = ("memory.max", "memory.current", "memory.stat")
    for group in ("", "box", "box/job"):
        write_group(tmp_path / group, names, LIMIT if group == limited else "max")
    (tmp_path / "own").write_text("0::/box/job\n")
    assert list(left_in_groups(tmp_path, tmp_path / "own")) == [LIMIT - USED + CACHED]


def test_the_limits_of_version_1_are_read_too(tmp_path):
    folder = tmp_path / "memory/box"
    write_group(folder, ("memory.limit_in_bytes", "memory.usage_in_bytes", "memory.stat"), LIMIT)
    (folder / "memory.stat").write_text(f"total_inactive_file {CACHED}\ntotal_active_file 0\n")
    (tmp_path / "own").write_text("5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n")
    assert list(left_in_groups(tmp_path, tmp_path / "own")) == [LIMIT - USED + CACHED]


def test_a_machine_without_groups_has_no_limits(tmp_path):
    assert list(left_in_groups(tmp_path, tmp_path / "absent")) == []


@pytest.mark.parametrize(
    ("printed", "status", "expected"), [("40960\n81559\n", 0, [40960 * 2**20, 81559 * 2**20]), ("No devices", 6, [])]
)
def test_the_gpus_are_those_that_nvidias_tool_names(tmp_path, monkeypatch, printed, status, expected):
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\nprintf '{printed}'\nexit {status}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    gpus.cache_clear()
    assert gpus() == expected
    gpus.cache_clear()
