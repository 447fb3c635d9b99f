"""Rows that several processes look at are what one makes of them."""

import json
import subprocess
import sys

import pyarrow as pa
import pytest

from tasks.data.token_cache import TOKENS_FILE

IMPORT = """
import itertools, json, os, sys
from pathlib import Path
from transformers import AutoTokenizer
from tasks.data import row_batches, row_processes, validation
from tasks.data.examples import DatasetError
from tasks.data.importing import import_dataset
from tasks.data.reading.source import open_source

tokenizer, path, folder, processes, cut_rows, hurt = sys.argv[1:]
validation.LARGE_BYTES = 0
row_processes.batched_by_size = lambda rows, size: iter(lambda: list(itertools.islice(rows, 7)), [])
look = row_processes._look

def looked(raw):
    if hurt == "killed":
        os.kill(os.getpid(), 9)
    if hurt == "memory":
        raise MemoryError
    return look(raw)

row_processes._look = looked
report, dataset = import_dataset(
    open_source(Path(path)), AutoTokenizer.from_pretrained(tokenizer), 64, Path(folder), allow_errors=True,
    cut_rows=cut_rows, processes=int(processes),
)
children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
print(json.dumps([report.as_json(), str(dataset.folder), children]))
"""


def run(tokenizer, path, folder, processes, cut_rows="split", hurt="") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", IMPORT, str(tokenizer), str(path), str(folder), str(processes), cut_rows, hurt]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def chat(number: int, **answer) -> dict:
    turns = [
        {"role": "user", "content": f"What is {number}?"},
        {"role": "assistant", "content": f"It is {number}. " * 9},
    ]
    turns[1] |= answer
    return {"messages": turns}


CALL = [{"type": "function", "function": {"name": "find", "arguments": '{"city": "Rome"}'}}]
LINES = [
    *(json.dumps(chat(number)) for number in range(40)),
    "",
    json.dumps(chat(7)),  # a duplicate
    json.dumps(chat(1))[:-1],
    json.dumps(chat(2, content=5)),
    json.dumps({"messages": [{"role": "user", "content": "q <|im_end|>"}, {"role": "assistant", "content": " "}]}),
    *(json.dumps(chat(number, weight=0.5)) for number in range(40, 50)),
    json.dumps(chat(50, content=None, tool_calls=CALL)),
    *("[]" for _ in range(30)),
    *(json.dumps(chat(number, content="é 🦊" * number)) for number in range(50, 70)),
]
TURNS = [
    json.dumps({"prompt": "a" * number, "completion": [{"role": "assistant", "content": f"{number}!"}]})
    for number in range(1, 30)
]


def stored(folder) -> list:
    (tokens,) = folder.glob(f"tokens-*/{TOKENS_FILE}")
    tables = [pa.ipc.open_file(pa.memory_map(str(path))).read_all() for path in (folder / "rows.arrow", tokens)]
    return [tokens.parent.name, *(table.to_pylist() for table in tables)]


@pytest.mark.parametrize(
    ("lines", "cut_rows"),
    [(LINES, "split"), (LINES, "error"), (TURNS, "truncate")],
    ids=["split", "long rows are errors", "turns"],
)
def test_rows_reports_and_tokens_are_the_same(tiny_llama_dir, tmp_path, lines, cut_rows):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    alone, together = (
        run(tiny_llama_dir, path, tmp_path / str(processes), processes, cut_rows) for processes in (1, 2)
    )
    assert (alone.returncode, together.returncode) == (0, 0), alone.stderr + together.stderr
    (report, folder, _), (other_report, other_folder, children) = (json.loads(run.stdout) for run in (alone, together))
    assert other_report == report
    assert (report["error_count"] > 0) == (lines is LINES)
    assert report["shape"] == ("messages" if lines is LINES else "prompt/completion: turns")
    one, other = (tmp_path / number / folder.rsplit("/", 1)[1] for number in ("1", "2"))
    assert folder.rsplit("/", 1)[1] == other_folder.rsplit("/", 1)[1]
    assert stored(one) == stored(other)
    assert children == []


@pytest.mark.parametrize(("hurt", "error"), [("killed", "BrokenProcessPool"), ("memory", "MemoryError")])
def test_what_happens_to_one_ends_the_work(tiny_llama_dir, tmp_path, hurt, error):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    ended = run(tiny_llama_dir, path, tmp_path / "data", 2, hurt=hurt)
    assert ended.returncode == 1
    assert error in ended.stderr
    assert [path.name for path in (tmp_path / "data").iterdir() if path.is_dir()] == []
