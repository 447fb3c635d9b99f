import datetime
import resource
import subprocess
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.data.examples import DatasetError, Example
from tasks.data.reading.source import open_source
from tests.tasks.data.reading.written_files import read_errors, read_examples

PEAK = """
import re, resource, sys
from pathlib import Path
from tasks.data.examples import DatasetError
from tasks.data.reading.source import open_source
if len(sys.argv) > 2:
    resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[2]), int(sys.argv[2])))
try:
    print(sum(len(row.example.text) for row in open_source(Path(sys.argv[1]))))
except DatasetError as error:
    print(error)
# Not its own ru_maxrss: a process starts with its parent's.
own = re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]
print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _repeated(length: int, times: int) -> pa.DictionaryArray:
    """Return a text that occurs many times and is stored once."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * times, pa.int32()), pa.array(["x" * length]))


def read_in_another_process(path, *limit: str) -> tuple[str, int, int]:
    """Return what it printed, and the most MiB that it and the process which unpacks had; both have the limit."""
    ran = subprocess.run([sys.executable, "-c", PEAK, str(path), *limit], capture_output=True, text=True, check=True)
    said, peaks = ran.stdout.splitlines()
    own, unpacking = (int(peak) >> 10 for peak in peaks.split())
    return said, own, unpacking


def test_tightly_packed_rows_are_read_a_few_at_a_time(tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": _repeated(2**19, 1_000)}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 10_000
    said, own, unpacking = read_in_another_process(path)
    assert int(said) == 1_000 * 2**19
    assert own < 150
    assert unpacking < 400


@pytest.mark.parametrize(
    "column",
    [
        pytest.param(_repeated(2**25, 100), id="long texts"),
        pytest.param(pa.ListArray.from_arrays([0, 100_000], _repeated(2**20, 100_000)), id="one long list"),
    ],
)
def test_rows_that_unpack_to_gigabytes_are_refused(column, tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": column}), path, compression="zstd", store_schema=False)
    assert path.stat().st_size < 100_000
    said, own, unpacking = read_in_another_process(path)
    assert "unpack to more than 1024 MiB; write shorter rows" in said
    assert own < 150
    assert unpacking < 1_300


def test_row_that_is_too_long_costs_only_itself(tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": ["one", "x" * 2**24, "three"]}), path)
    assert list(read_errors(path)) == [2]
    assert "longer than 16 MiB" in read_errors(path)[2]


def test_columns_that_are_not_needed_are_not_unpacked(tmp_path):
    path = tmp_path / "rows"
    table = pa.table({"image": _repeated(2**25, 100), "day": [datetime.date(2024, 1, 1)] * 100, "text": ["t"] * 100})
    pq.write_table(table, path, store_schema=False)
    assert open_source(path).ignored_columns == ["image", "day"]
    assert read_examples(path) == [Example(text="t")] * 100


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        (pa.array([datetime.date(2024, 1, 1)]), "the column text holds date32"),
        (pa.array([b"bytes"]), "the column text holds binary; texts, numbers, lists"),
        (pa.array(["text"])[:0], "it holds no rows"),
    ],
)
def test_file_without_texts_is_refused(column, sentence, tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": column}), path)
    with pytest.raises(DatasetError, match=sentence):
        list(open_source(path))


@pytest.mark.parametrize("kept", [4, 100, -1, -20])
def test_file_that_is_cut_off_is_refused(kept, tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": ["one", "two"] * 1_000}), path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match="the Parquet file cannot be read: "):
        list(open_source(path))


def test_page_that_is_broken_is_refused(tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": [f"text {number}" for number in range(1_000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[200:400] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(DatasetError, match="the Parquet file cannot be read: "):
        list(open_source(path))


def test_text_that_is_not_utf8_is_refused(tmp_path):
    path = tmp_path / "rows"
    not_text = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\x02\0\0\0"), pa.py_buffer(b"\xff\xfe"))
    pq.write_table(pa.table({"text": not_text}), path)
    with pytest.raises(DatasetError, match="codec can't decode byte 0xff"):
        list(open_source(path))


def test_too_many_columns_are_refused(tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({f"c{number}": ["x"] for number in range(1_001)}), path)
    with pytest.raises(DatasetError, match="1001 columns; at most 1000"):
        open_source(path)


def test_process_ends_when_nobody_reads_on(tmp_path):
    path = tmp_path / "rows"
    pq.write_table(pa.table({"text": ["x" * 1_000] * 20_000}), path)
    source = open_source(path)
    ended_before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw
    assert next(iter(source)).example == Example(text="x" * 1_000)
    # The use of a child is counted once it is over and was waited for.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_nvcsw > ended_before
