from contextlib import closing

import pytest

from tasks.job.flow_run import DiskFull, full_disks_named
from tasks.job.trace import Trace, TraceRow
from tests.small_disk import filling, small_disk


def test_rows_come_back_and_repeated_steps_count_once(tmp_path):
    trace = Trace(tmp_path / "trace.jsonl")
    trace.append(1, {"loss": 2.5}, sample_ids=(3, 1))
    trace.append(1, {"eval_loss": 2.4})
    trace.append(2, {"loss": 2.0})
    trace.close()
    resumed = Trace(tmp_path / "trace.jsonl")
    resumed.append(2, {"loss": 2.0})
    resumed.append(3, {"loss": 1.5}, epoch=2)
    assert list(resumed.rows()) == [
        TraceRow(1, {"loss": 2.5}),
        TraceRow(1, {"eval_loss": 2.4}),
        TraceRow(2, {"loss": 2.0}),
        TraceRow(3, {"loss": 1.5}, epoch=2),
    ]
    resumed.close()


def test_half_a_line_of_a_killed_process_is_cut_off(tmp_path):
    path = tmp_path / "trace.jsonl"
    path.write_text('{"step": 1, "metrics": {"loss": 2.5}}\n{"step": 2, "metr')
    trace = Trace(path)
    assert list(trace.rows()) == [TraceRow(1, {"loss": 2.5})]
    trace.append(2, {"loss": 2.0})
    trace.close()
    assert list(trace.rows()) == [TraceRow(1, {"loss": 2.5}), TraceRow(2, {"loss": 2.0})]


def test_a_job_without_steps_has_no_rows(tmp_path):
    assert list(Trace(tmp_path / "trace.jsonl").rows()) == []


def test_a_full_disk_is_said_once_by_what_could_not_be_written(tmp_path):
    """Were it said again while the file is closed, that error would take the place of the sentence about the disk."""
    folder = tmp_path / "disk"
    with small_disk(folder, 2**17), filling(folder) as fill:
        trace = Trace(folder / "trace.jsonl")
        trace.append(1, {"loss": 2.0})
        fill(0)
        with pytest.raises(DiskFull, match="free some space"), closing(trace), full_disks_named(folder):
            trace.append(2, {"loss": 2.0}, sample_ids=tuple(range(20_000)))
        assert next(trace.rows()) == TraceRow(1, {"loss": 2.0})
