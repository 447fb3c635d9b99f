import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tasks.data.examples import DatasetError, Example, Message
from tasks.data.prepared import PreparedDataset
from tasks.data.prepared import prepare as prepare_rows
from tasks.data.rows import ListedExamples
from tasks.data.split import split_by_hash
from tasks.data.template import render
from tasks.data.tokenizing import tokenize

LONGEST = 64


def questions(count: int = 60) -> list[Example]:
    return [Example.question(f"What is {number}?", "one " * (number % 30 + 1)) for number in range(count)]


def prepare(examples, tokenizer, max_seq_length, cache_dir, **options) -> PreparedDataset:
    return prepare_rows(ListedExamples(examples), tokenizer, max_seq_length, cache_dir, **options)


def only_folder(cache_dir: Path) -> Path:
    (folder,) = (path for path in cache_dir.iterdir() if path.is_dir())
    return folder


def files_of(folder) -> dict[str, tuple[int, int]]:
    """Inode and time of every file, which no reader changes and every writer does."""
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_rows_are_the_split_tokenized(chat_tokenizer, tmp_path):
    examples = questions()
    prepared = prepare(examples, chat_tokenizer, LONGEST, tmp_path)
    split = split_by_hash(ListedExamples(examples).hashes)
    train, held_out = ([examples[position] for position in side] for side in (split.train, split.held_out))
    assert list(prepared.train) == [tokenize(row, chat_tokenizer, LONGEST) for row in train]
    assert list(prepared.held_out) == [tokenize(row, chat_tokenizer, LONGEST) for row in held_out]
    assert list(prepared.held_out_examples) == held_out
    assert prepared.held_out_examples[:2] == held_out[:2]
    assert prepared.train[-1] == prepared.train[len(train) - 1]
    assert prepared.train[2:5] == list(prepared.train)[2:5]
    assert prepared.train.lengths == [len(row.input_ids) for row in prepared.train]
    with pytest.raises(IndexError):
        prepared.train[len(train)]


def test_held_out_texts_stay_aligned_when_rows_are_left_out(chat_tokenizer, tmp_path):
    examples = [Example.question("why? " * (40 if number % 3 == 0 else 1), f"because {number}") for number in range(60)]
    prepared = prepare(examples, chat_tokenizer, LONGEST, tmp_path, held_out_fraction=0.5)
    assert prepared.report.unusable_rows == 20
    assert len(prepared.held_out_examples) == len(prepared.held_out)
    for example, row in zip(prepared.held_out_examples, prepared.held_out, strict=True):
        assert chat_tokenizer.decode(row.input_ids) == render(example, chat_tokenizer).text


def test_report_counts_what_became_of_every_row(chat_tokenizer, tmp_path):
    examples = [*questions(), Example.question("long " * 100, "never seen")]
    report = prepare(examples, chat_tokenizer, LONGEST, tmp_path).report
    whole = [tokenize(row, chat_tokenizer, 10_000) for row in examples]
    lengths = sorted(len(row.input_ids) for row in whole)
    kept = [row for row in whole if row.prompt_length < LONGEST]
    assert report.rows == 61
    assert report.unusable_rows == 1
    assert report.train_rows + report.held_out_rows == 60
    assert report.cut_rows == sum(len(row.input_ids) > LONGEST for row in kept) > 0
    assert report.tokens == sum(min(len(row.input_ids), LONGEST) for row in kept)
    assert report.answer_tokens == sum(min(len(row.input_ids), LONGEST) - row.prompt_length for row in kept)
    assert (report.length_p50, report.length_p95, report.length_max) == (lengths[30], lengths[57], lengths[60])


def test_a_second_call_reads_the_cache(chat_tokenizer, tmp_path):
    first = prepare(questions(), chat_tokenizer, LONGEST, tmp_path)
    written = files_of(tmp_path)
    second = prepare(questions(), chat_tokenizer, LONGEST, tmp_path)
    assert files_of(tmp_path) == written
    assert list(second.train) == list(first.train)
    assert list(second.held_out_examples) == list(first.held_out_examples)
    assert (second.report, second.fingerprint) == (first.report, first.fingerprint)
    folder = only_folder(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, f"{folder.name}.lock"}


def test_padding_a_batch_leaves_the_fingerprint_alone(tiny_llama_dir, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    before = prepare(questions(), tokenizer, LONGEST, tmp_path).fingerprint
    tokenizer.pad_token = tokenizer.eos_token
    padded = prepare(questions(), tokenizer, LONGEST, tmp_path).fingerprint
    tokenizer(["a", "a longer one"], padding=True, truncation=True, max_length=3)
    assert prepare(questions(), tokenizer, LONGEST, tmp_path).fingerprint == padded
    assert padded != before


def test_everything_that_decides_the_rows_changes_the_fingerprint(tiny_llama_dir, plain_tokenizer, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    examples = questions()
    prints = [
        prepare(examples, tokenizer, LONGEST, tmp_path).fingerprint,
        prepare(examples, tokenizer, LONGEST + 1, tmp_path).fingerprint,
        prepare(examples, tokenizer, LONGEST, tmp_path, held_out_fraction=0.2).fingerprint,
        prepare(examples[:-1], tokenizer, LONGEST, tmp_path).fingerprint,
        prepare(examples[::-1], tokenizer, LONGEST, tmp_path).fingerprint,
        prepare(examples, plain_tokenizer, LONGEST, tmp_path).fingerprint,
    ]
    tokenizer.chat_template = tokenizer.chat_template.replace("assistant", "bot")
    changed = prepare(examples, tokenizer, LONGEST, tmp_path)
    assert all(one != other for one, other in itertools.combinations([*prints, changed.fingerprint], 2))
    assert "bot\n" in tokenizer.decode(changed.train[0].input_ids)


@pytest.mark.parametrize(
    "damage", ["truncated", "emptied", "zeroed", "one byte", "removed", "manifest", "half a manifest"]
)
def test_a_torn_cache_is_rebuilt(chat_tokenizer, tmp_path, damage):
    first = prepare(questions(), chat_tokenizer, LONGEST, tmp_path)
    expected = list(first.train)
    rows, manifest = only_folder(tmp_path) / "tokens.arrow", only_folder(tmp_path) / "manifest.json"
    content = rows.read_bytes()
    if damage == "manifest":
        manifest.unlink()
    elif damage == "half a manifest":
        manifest.write_text(manifest.read_text()[:40])
    else:
        # A new file: what is memory-mapped must not change below its reader.
        rows.unlink()
        kept = {"truncated": content[:-100], "emptied": b"", "zeroed": content[:200] + bytes(len(content) - 200)}
        middle = len(content) // 2
        kept["one byte"] = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        if damage in kept:
            rows.write_bytes(kept[damage])
    again = prepare(questions(), chat_tokenizer, LONGEST, tmp_path)
    assert list(again.train) == expected
    assert rows.read_bytes() == content
    assert json.loads(manifest.read_text())["sha256"] == hashlib.sha256(content).hexdigest()
    assert again.report == first.report
    assert list(first.train) == expected


def test_what_a_killed_build_left_behind_is_cleared(chat_tokenizer, tmp_path):
    prepare(questions(), chat_tokenizer, LONGEST, tmp_path)
    folder = only_folder(tmp_path)
    half_built = tmp_path / "tokens.building-abc"
    folder.rename(half_built)
    (half_built / "manifest.json").unlink()
    assert len(prepare(questions(), chat_tokenizer, LONGEST, tmp_path).train) > 0
    assert {path.name for path in tmp_path.iterdir()} == {folder.name, f"{folder.name}.lock"}


def test_a_cache_that_was_copied_is_checked_once_and_kept(chat_tokenizer, tmp_path):
    first = prepare(questions(), chat_tokenizer, LONGEST, tmp_path / "cache")
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "cache", moved, copy_function=shutil.copyfile)
    inode = (only_folder(moved) / "tokens.arrow").stat().st_ino
    assert list(prepare(questions(), chat_tokenizer, LONGEST, moved).train) == list(first.train)
    assert (only_folder(moved) / "tokens.arrow").stat().st_ino == inode
    written = files_of(moved)
    prepare(questions(), chat_tokenizer, LONGEST, moved)
    assert files_of(moved) == written


def test_one_cache_serves_all_lengths_and_splits(chat_tokenizer, tmp_path):
    long = prepare(questions(), chat_tokenizer, 256, tmp_path)
    short = prepare(questions(), chat_tokenizer, LONGEST, tmp_path, held_out_fraction=0.5)
    assert only_folder(tmp_path)
    assert max(short.train.lengths) == LONGEST < max(long.train.lengths)
    assert len(short.held_out) > len(long.held_out)
    assert short.fingerprint != long.fingerprint


def test_with_an_own_held_out_set_nothing_else_is_held_out(chat_tokenizer, tmp_path):
    own = [*questions(70)[58:], Example.question("Is this held out?", "Yes.")]
    prepared = prepare(questions(), chat_tokenizer, LONGEST, tmp_path, held_out=ListedExamples(own))
    assert prepared.report.leaked_rows == 2
    assert prepared.report.rows == 60 + len(own)
    assert list(prepared.train) == [tokenize(row, chat_tokenizer, LONGEST) for row in questions()[:58]]
    assert sorted(row.prompt for row in prepared.held_out_examples) == sorted(row.prompt for row in own)
    for example, row in zip(prepared.held_out_examples, prepared.held_out, strict=True):
        assert row == tokenize(example, chat_tokenizer, LONGEST)
    other = prepare(questions(), chat_tokenizer, LONGEST, tmp_path, held_out=ListedExamples(own[1:]))
    assert other.fingerprint != prepared.fingerprint


def test_generation_is_asked_for_the_last_answer_that_is_left(chat_tokenizer, tmp_path):
    conversation = (
        Message("user", "one?"),
        Message("assistant", "first"),
        Message("user", "two? " * 20),
        Message("assistant", "second"),
        Message("user", "three?"),
        Message("assistant", "third", learned=False),
    )
    own = ListedExamples([Example(conversation)])
    for longest, turns in ((400, 4), (60, 2)):
        prepared = prepare(questions(), chat_tokenizer, longest, tmp_path, held_out=own)
        (example,), (row,) = prepared.held_out_examples, prepared.held_out
        assert example.messages == conversation[:turns]
        prompt = [message.for_template() for message in conversation[: turns - 1]]
        expected = chat_tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        assert chat_tokenizer.decode(row.input_ids[: row.prompt_length]) == expected


def test_processes_that_race_both_end_well_and_one_builds(tiny_llama_dir, tmp_path):
    program = """
import os, sys
from pathlib import Path
from transformers import AutoTokenizer
from tasks.data.examples import Example
from tasks.data.prepared import prepare
from tasks.data.rows import ListedExamples
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
examples = [Example(text=f"number {n} " * 20) for n in range(3000)]
print("ready", flush=True)
sys.stdin.readline()
prepared = prepare(ListedExamples(examples), tokenizer, 64, Path(sys.argv[2]))
print(len(prepared.train), *(os.stat(path).st_ino for path in Path(sys.argv[2]).glob("*/tokens.arrow")))
"""
    command = [sys.executable, "-c", program, str(tiny_llama_dir), str(tmp_path)]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for racer in racers:
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        racer.stdin.write("go\n")
        racer.stdin.flush()
    answers = [racer.communicate(timeout=120)[0].split() for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0]
    assert answers[0] == answers[1]
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 1


def test_a_side_without_a_usable_row_is_refused(chat_tokenizer, tmp_path):
    with pytest.raises(DatasetError, match=r"none of the .* rows to train on .* max_seq_length=8"):
        prepare(questions(), chat_tokenizer, 8, tmp_path)


def test_rows_that_cannot_be_rendered_leave_no_folder(plain_tokenizer, tmp_path):
    rows = [*questions(), Example((Message("user", "q"), Message("assistant", "a", reasoning="r")))]
    with pytest.raises(DatasetError, match="no chat template"):
        prepare(rows, plain_tokenizer, LONGEST, tmp_path)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
