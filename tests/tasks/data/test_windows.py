"""Long texts are read as windows that together are the text."""

import pickle

import pytest

from tasks.data.examples import Example
from tasks.data.prepared import prepare, prepare_training
from tasks.data.rows import ListedExamples
from tasks.data.split import split_by_hash
from tasks.data.tokenizing import tokenize

LONGEST = 32


def texts(count: int = 30) -> list[Example]:
    return [Example(text=f"document {n}: " + f"word{n} " * (n * 7 % 60)) for n in range(count)]


def ids_of(example, tokenizer) -> list[int]:
    return tokenize(example, tokenizer, 10**6).input_ids


@pytest.mark.parametrize("longest", [8, 9, 16, 31, LONGEST, 100, 10_000])
@pytest.mark.parametrize("name", ["chat_tokenizer", "plain_tokenizer"])
def test_windows_of_a_text_are_the_text(request, name, longest, tmp_path):
    tokenizer, examples = request.getfixturevalue(name), texts()
    prepared = prepare_training(ListedExamples(examples), tokenizer, longest, tmp_path, held_out_fraction=0.3)
    split = split_by_hash(ListedExamples(examples).hashes, 0.3)
    whole = [ids_of(examples[position], tokenizer) for position in split.train]
    windows = list(prepared.train)
    assert [token for window in windows for token in window.input_ids] == [token for ids in whole for token in ids]
    assert prepared.train.lengths == [len(window.input_ids) for window in windows]
    for window in windows:
        assert window.labels == window.input_ids
        assert 2 <= len(window.input_ids) <= longest
        # The end of a text is in its last window only, and no window has tokens of two texts.
        assert tokenizer.eos_token_id not in window.input_ids[:-1]
    expected = sum(-(-len(ids) // longest) for ids in whole)
    assert len(windows) == prepared.report.train_windows == expected
    held_out = [ids_of(examples[position], tokenizer) for position in split.held_out]
    assert prepared.report.held_out_windows == sum(-(-len(ids) // longest) for ids in held_out)
    starts = {tuple(ids[:6]) for ids in held_out}
    assert sum(tuple(window.input_ids[:6]) in starts for window in prepared.held_out) == len(held_out)
    report = prepared.report
    assert (report.rows, report.cut_rows, report.unusable_rows) == (30, 0, 0)
    assert report.tokens == sum(map(len, whole)) + sum(map(len, held_out))
    assert report.answer_tokens == report.tokens - report.train_windows - report.held_out_windows


def test_no_window_has_one_token_only(plain_tokenizer, tmp_path):
    examples = [Example(text=f"{n} " + "a " * n) for n in range(80)]
    for longest in (8, 11, 16):
        prepared = prepare_training(ListedExamples(examples), plain_tokenizer, longest, tmp_path)
        lengths = {len(ids_of(example, plain_tokenizer)) % longest for example in examples}
        assert 1 in lengths
        assert min(prepared.train.lengths) == 2


def test_texts_that_fit_are_the_rows_they_were(plain_tokenizer, tmp_path):
    rows = ListedExamples(texts())
    cut = prepare(rows, plain_tokenizer, 1_000, tmp_path)
    windowed = prepare_training(rows, plain_tokenizer, 1_000, tmp_path)
    assert (list(windowed.train), list(windowed.held_out)) == (list(cut.train), list(cut.held_out))
    assert (windowed.fingerprint, windowed.report) == (cut.fingerprint, cut.report)
    short = prepare_training(rows, plain_tokenizer, LONGEST, tmp_path)
    assert short.fingerprint != prepare(rows, plain_tokenizer, LONGEST, tmp_path).fingerprint


def test_windows_can_be_sliced_and_read_by_another_process(plain_tokenizer, tmp_path):
    prepared = prepare_training(ListedExamples(texts()), plain_tokenizer, LONGEST, tmp_path)
    rows = list(prepared.train)
    assert prepared.train[:3] == rows[:3]
    assert prepared.train[-1] == rows[-1]
    assert list(pickle.loads(pickle.dumps(prepared.train))) == rows
    with pytest.raises(IndexError):
        prepared.train[len(rows)]


def test_weight_of_a_text_is_that_of_its_windows(plain_tokenizer, tmp_path):
    examples = [Example(example.messages, example.text, weight=0.5) for example in texts()]
    prepared = prepare_training(ListedExamples(examples), plain_tokenizer, LONGEST, tmp_path)
    for window in prepared.train:
        assert window.weights == [0.5] * len(window.input_ids)


def test_first_held_out_windows_are_not_those_of_the_first_texts(plain_tokenizer, tmp_path):
    examples = [Example(text=f"document {n}: " + f"{n} " * 400) for n in range(40)]
    prepared = prepare_training(ListedExamples(examples), plain_tokenizer, LONGEST, tmp_path, held_out_fraction=0.5)
    begun = {plain_tokenizer.decode(window.input_ids).split()[-2] for window in prepared.held_out[:32]}
    assert len(begun) > 8
