"""Parquet and Arrow files: types, keys that only other rows have, streams that are cut off."""

import json
import struct
import uuid
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import feather

from tasks.data.examples import DatasetError, Example
from tasks.data.reading.source import open_source
from tests.tasks.data.reading.test_hostile_parquet import read_in_another_process
from tests.tasks.data.reading.written_files import assistant, user

TURNS = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
PAIRS = pa.table({"question": ["q"] * 200, "answer": [f"a{number}" for number in range(200)]})
READ_PAIRS = [Example.question("q", f"a{number}") for number in range(200)]


def _parquet(table, path):
    pq.write_table(table, path)


def _arrow_file(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


def _arrow_stream(table, path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=70)


def _feather(table, path):
    feather.write_feather(table, path)


def _saved_to_disk(table, path):
    datasets.disable_progress_bars()
    datasets.Dataset(table).save_to_disk(path.with_suffix(".folder"))
    (path.with_suffix(".folder") / "data-00000-of-00001.arrow").replace(path)


@pytest.mark.parametrize("write", [_arrow_file, _arrow_stream, _feather, _saved_to_disk])
def test_arrow_files_and_streams_are_read(write, tmp_path):
    path = tmp_path / "rows.arrow"
    write(PAIRS.append_column("image", pa.array([b"\xff"] * 200)), path)
    source = open_source(path)
    assert (source.file_format, source.ignored_columns, list(source.warnings)) == ("arrow", ["image"], [])
    assert [(row.number, row.example) for row in source] == list(enumerate(READ_PAIRS, 1))


@pytest.mark.parametrize("write", [_parquet, _arrow_file])
@pytest.mark.parametrize(
    "column",
    [
        pytest.param(
            pa.ExtensionArray.from_storage(pa.json_(), pa.array([json.dumps(TURNS)])),
            id="JSON text, as DuckDB writes it",
        ),
        pytest.param(pa.array([TURNS]), id="list of structs"),
        pytest.param(pa.array([TURNS], pa.large_list(pa.map_(pa.string(), pa.string()))), id="maps"),
        pytest.param(
            pa.array([TURNS], pa.list_(pa.struct({"role": pa.string(), "content": pa.large_string()}), 2)),
            id="list of fixed size",
        ),
        pytest.param(
            pa.array(
                [[{"role": TURN["role"], "content": TURN["content"]} for TURN in TURNS]],
                pa.list_(pa.struct({"role": pa.dictionary(pa.int8(), pa.string()), "content": pa.string_view()})),
            ),
            id="categories and views",
        ),
    ],
)
def test_messages_of_every_type_are_read(column, write, tmp_path):
    path = tmp_path / "rows"
    ids = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([uuid.uuid4().bytes], pa.binary(16)))
    write(pa.table({"id": ids, "messages": column}), path)
    source = open_source(path)
    assert source.ignored_columns == ["id"]
    assert [row.example for row in source] == [Example((user("q"), assistant("a")))]


def _call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize("write", [_parquet, _arrow_stream])
def test_keys_that_only_other_rows_have_are_no_part_of_a_row(write, tmp_path):
    path = tmp_path / "rows"
    rows: list[dict[str, Any]] = [
        {
            "messages": [
                {"role": "user", "content": "q", "name": "Ann"},
                {"role": "assistant", "weight": 1, "tool_calls": [_call("add", a=1, b=[None, {"c": 2}]), _call("now")]},
                {"role": "assistant", "content": "a"},
            ],
            "tools": [
                {"name": "add", "parameters": {"properties": {"a": {"type": "number"}}}},
                {"name": "now", "parameters": {"properties": {"zone": {"type": "string", "enum": ["utc"]}}}},
            ],
        },
        {"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "tools": None},
    ]
    write(pa.Table.from_pylist(rows), path)
    first, second = (row.example for row in open_source(path))
    tools = [{"type": "function", "function": tool} for tool in rows[0]["tools"]]
    assert first.tools == json.dumps(tools, sort_keys=True, separators=(",", ":"))
    arguments = [call["function"]["arguments"] for call in json.loads(first.messages[1].tool_calls)]
    assert arguments == [{"a": 1, "b": [None, {"c": 2}]}, {}]
    assert first.messages[2] == assistant("a")
    assert second == Example((user("q"), assistant("a")))


@pytest.mark.parametrize("write", [_parquet, _arrow_stream])
@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        (pa.Table.from_arrays([pa.array(["t"])] * 2, ["text", "text"]), "it has two columns of the name text"),
        (
            pa.table({"text": pa.array([1], pa.timestamp("ms"))}),
            r"the column text holds timestamp\[ms\]; texts, numbers",
        ),
        (pa.table({"text": pa.array([{"a": b"x"}])}), r"the column text.a holds binary"),
        (pa.table({"text": ["t"]})[:0], "it holds no rows"),
    ],
)
def test_column_that_cannot_be_used_is_named(table, sentence, write, tmp_path):
    path = tmp_path / "rows"
    write(table, path)
    with pytest.raises(DatasetError, match=f"the (Parquet|Arrow) file cannot be read: {sentence}"):
        list(open_source(path))


@pytest.mark.parametrize("write", [_arrow_file, _arrow_stream])
@pytest.mark.parametrize("kept", [8, 100, -1, -8])
def test_arrow_file_that_is_cut_off_is_refused(kept, write, tmp_path):
    path = tmp_path / "rows"
    write(PAIRS, path)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DatasetError, match="the Arrow file cannot be read: "):
        list(open_source(path))


def test_streams_one_after_the_other_are_refused(tmp_path):
    path = tmp_path / "rows"
    _arrow_stream(PAIRS, path)
    path.write_bytes(path.read_bytes() * 2)
    with pytest.raises(DatasetError, match="more follows after the end of the stream, at byte"):
        list(open_source(path))


def test_texts_that_lie_outside_of_the_file_are_refused(tmp_path):
    path = tmp_path / "rows"
    _arrow_file(pa.table({"text": ["one", "two"]}), path)
    offsets = [struct.pack("<3i", 0, 3, end) for end in (6, 2**30)]
    assert path.read_bytes().count(offsets[0]) == 1
    path.write_bytes(path.read_bytes().replace(*offsets))
    with pytest.raises(DatasetError, match="the Arrow file cannot be read: "):
        list(open_source(path))


def test_record_batch_that_is_larger_than_the_memory_is_read_row_by_row(tmp_path):
    path = tmp_path / "rows"
    text = "x" * 2**15
    with pa.OSFile(str(path), "wb") as sink:
        batch = pa.record_batch({"text": pa.array([text] * 8_192)})
        with pa.ipc.new_stream(sink, batch.schema) as writer:
            writer.write_batch(batch)
    said, own, _ = read_in_another_process(path, f"{192 * 2**20}")
    assert int(said) == 256 * 2**20
    assert own < 150


def test_arrow_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "rows"
    batch = pa.record_batch({"text": pa.array(["x" * 2**20] * 1_100, pa.large_string())})
    with pa.OSFile(str(path), "wb") as sink:
        options = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)
    assert path.stat().st_size < 1_000_000
    said, own, unpacking = read_in_another_process(path)
    assert "unpack to more than 1024 MiB" in said
    assert own < 150
    assert unpacking < 1_300
