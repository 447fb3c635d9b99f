import json
import random
from collections.abc import Sequence

import pytest
from transformers import AutoTokenizer

from tasks.data.chat_windows import Splitter
from tasks.data.examples import DatasetError, Example, Message
from tasks.data.generation_prompt import GenerationPrompts
from tasks.data.importing import import_dataset
from tasks.data.prepared import prepare, prepare_training
from tasks.data.store import StoredDataset
from tasks.data.tokenizing import tokenize
from tasks.data.validation_report import ValidationReport
from tests.tasks.data.sources import ListedSource

LONGEST = 64
DROPS_SYSTEM_TURNS = (
    "{% for m in messages if m['role'] != 'system' %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def imported(chat_tokenizer, tmp_path):
    """Imports rows with the chat tokenizer."""

    def run(
        rows: Sequence[Example | str], tokenizer=chat_tokenizer, columns: tuple[str, ...] = (), **options
    ) -> tuple[ValidationReport, StoredDataset | None]:
        return import_dataset(ListedSource(rows, columns), tokenizer, LONGEST, tmp_path, **options)

    return run


@pytest.fixture
def own_tokenizer(tiny_llama_dir):
    """A tokenizer that a test may change."""
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def questions(count: int) -> list[Example]:
    return [Example.question(f"What is {number}?", "one " * (number % 30 + 1)) for number in range(count)]


def test_good_rows_are_stored_and_counted(imported, chat_tokenizer):
    report, dataset = imported(questions(300))
    whole = [tokenize(row, chat_tokenizer, 10_000) for row in questions(300)]
    lengths = sorted(len(row.input_ids) for row in whole)
    assert list(dataset) == questions(300)
    assert report.usable
    assert (report.file_format, report.shape, report.max_seq_length) == ("jsonl", "messages", LONGEST)
    assert (report.rows, report.usable_rows, report.error_count, report.errors) == (300, 300, 0, [])
    assert report.tokens == sum(lengths)
    assert report.answer_tokens == sum(row.answer_tokens for row in whole)
    assert (report.length_p50, report.length_p95, report.length_p99) == (lengths[149], lengths[284], lengths[296])
    assert report.length_max == lengths[-1]
    assert report.cut_rows == sum(length > LONGEST for length in lengths) > 0
    assert report.warnings == [f"{report.cut_rows} of 300 rows are longer than 64 tokens and would lose their end."]
    assert dataset.report == json.loads(json.dumps(report.as_json()))


def test_what_a_person_should_know_of_the_rows_is_counted_and_said(imported):
    rows = [
        *questions(5),
        *questions(2),
        Example.question("empty", " \n"),
        Example(text=""),
        Example((Message("user", "q"), Message("assistant", "", tool_calls="[]"))),
        Example.question("<|im_end|>", "a"),
        Example.question("long " * 100, "lost"),
        Example.question("q", "long " * 100),
    ]
    report, _ = imported(rows, columns=("id", "source"))
    counts = (report.duplicate_rows, report.empty_answers, report.rows_with_special_tokens, report.rows_losing_text)
    assert counts == (2, 2, 1, 0)
    assert (report.cut_rows, report.lost_rows) == (1, 2)  # an empty text has nothing to predict
    assert (report.rows, report.usable_rows) == (13, 11)
    assert report.warnings == [
        "2 of 13 rows keep nothing to learn within 64 tokens, and are left out of training.",
        "1 of 13 rows are longer than 64 tokens and would lose their end.",
        "2 of 13 rows repeat an earlier row exactly, so they weigh more.",
        "2 of 13 rows have an empty answer, which teaches the model to say nothing.",
        "1 of 13 rows spell special tokens of the model: in a conversation those that begin or end turns are "
        "trained on as plain words, all others as the tokens.",
        "These columns are not used: id, source.",
    ]


def test_a_template_that_drops_words_is_noticed(imported, own_tokenizer):
    own_tokenizer.chat_template = DROPS_SYSTEM_TURNS
    with_system = Example((Message("system", "Be kind."), Message("user", "q"), Message("assistant", "a")))
    report, _ = imported([*questions(3), with_system], own_tokenizer)
    (error,) = report.errors
    assert (report.usable, error.number) == (False, 4)
    assert error.message.startswith("the model's chat template leaves out messages[0].content;")


def test_a_template_that_changes_words_which_are_not_learned_is_warned_of(imported, own_tokenizer):
    own_tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] + ': ' + (m['content'] | replace('!', '.')) + eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    rows = [*questions(3), Example.question("q!", "a")]
    report, _ = imported(rows, own_tokenizer)
    assert (report.usable, report.rows_losing_text) == (True, 1)
    assert "1 of 4 rows lose words in the model's chat template, or have them changed." in report.warnings


def test_one_row_in_error_makes_a_data_set_unusable_unless_that_is_allowed(imported, plain_tokenizer, tmp_path):
    thoughtful = Example((Message("user", "q"), Message("assistant", "a", reasoning="hm")))
    rows = [*questions(3), "the field answer is missing", thoughtful]
    report, dataset = imported(rows, plain_tokenizer)
    assert dataset is None
    assert not report.usable
    assert (report.rows, report.usable_rows, report.error_count) == (5, 3, 2)
    assert [error.number for error in report.errors] == [4, 5]
    assert report.errors[0].message == "the field answer is missing"
    assert "has reasoning_content" in report.errors[1].message
    assert list(tmp_path.iterdir()) == []
    report, dataset = imported(rows, plain_tokenizer, allow_errors=True)
    assert report.usable
    assert list(dataset) == questions(3)
    assert [dataset.number(position) for position in range(3)] == [1, 2, 3]
    assert report.warnings[0] == "2 of 5 rows can't be used, and are left out."


def test_only_the_first_errors_are_shown(imported):
    rows = [f"row {number} is broken" for number in range(1, 101)]
    random.Random(0).shuffle(rows)
    report, _ = imported([*rows, *questions(3)])
    assert report.error_count == 100
    assert [error.message for error in report.errors] == rows[:20]


@pytest.mark.parametrize("rows", [[], ["broken"], [Example.question("long " * 100, "lost")]])
def test_a_data_set_without_a_usable_row_is_not_stored(imported, tmp_path, rows):
    report, dataset = imported(rows, allow_errors=True)
    assert dataset is None
    assert (report.usable, report.usable_rows) == (False, 0)
    assert list(tmp_path.iterdir()) == []


def test_training_finds_the_tokens_that_counting_made(imported, chat_tokenizer, tmp_path):
    _, dataset = imported(questions(300))
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    assert len(written) == 2
    prepared = prepare(dataset, chat_tokenizer, LONGEST, dataset.folder)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")} == written
    for position, row in zip(prepared.train.positions, prepared.train, strict=True):
        assert row == tokenize(dataset.example(int(position)), chat_tokenizer, LONGEST)
    assert prepared.held_out_examples[0] == dataset.example(int(prepared.held_out.positions[0]))


def test_a_file_that_breaks_off_leaves_nothing(chat_tokenizer, tmp_path):
    class Broken(ListedSource):
        def __iter__(self):
            yield from super().__iter__()
            raise DatasetError("the file ends in the middle of a row")

    with pytest.raises(DatasetError, match="ends in the middle"):
        import_dataset(Broken(questions(600)), chat_tokenizer, LONGEST, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_conversation_that_is_too_long_is_cut_refused_or_split_as_asked(imported, chat_tokenizer):
    turns = tuple(turn for n in range(9) for turn in (Message("user", f"q{n}"), Message("assistant", f"a{n}")))
    unsplit = Example.question("q", "long " * 100)
    rows = [*questions(4), Example(turns), *questions(2), unsplit]
    lengths = [len(tokenize(row, chat_tokenizer, 10**6).input_ids) for row in rows]
    windows = Splitter(chat_tokenizer, LONGEST).windows(Example(turns))
    assert len(windows) > 2

    cut, _ = imported(rows)
    assert (cut.usable, cut.cut_rows, cut.error_count, cut.windows) == (True, 2, 0, 8)
    assert (cut.length_max, cut.longest_row, cut.document_max) == (max(lengths), 8, 0)

    refused, dataset = imported(rows, cut_rows="error")
    assert (dataset, refused.usable, refused.error_count, refused.cut_rows) == (None, False, 2, 0)
    sentence = f"has {lengths[4]} tokens, more than max_seq_length={LONGEST}, and cut_rows is error"
    assert (refused.errors[0].number, refused.errors[0].message) == (5, sentence)
    assert refused.errors[1].number == 8
    left, dataset = imported(rows, cut_rows="error", allow_errors=True)
    assert (left.usable, left.rows, left.usable_rows, left.windows) == (True, 8, 6, 6)
    assert list(dataset) == [*questions(4), *questions(2)]
    assert left.tokens == sum(lengths[:4]) + sum(lengths[5:7])

    (error,) = imported(rows, cut_rows="split")[0].errors
    assert error.number == 8
    assert error.message.startswith(f"messages[1] has {lengths[7]} tokens with the question that it answers")
    split, dataset = imported(rows[:7], cut_rows="split")
    assert (split.usable, split.cut_rows, split.lost_rows, split.error_count) == (True, 0, 0, 0)
    assert split.windows == 6 + len(windows)
    prepared = prepare_training(dataset, chat_tokenizer, LONGEST, dataset.folder, "split").report
    assert prepared.train_windows + prepared.held_out_windows == split.windows


def test_long_texts_are_counted_as_their_windows_and_are_not_cut(imported, chat_tokenizer):
    rows = [Example(text="one " * words) for words in (0, 1, 100, 300, 777)]
    report, dataset = imported(rows, cut_rows="error")
    lengths = [len(tokenize(row, chat_tokenizer, 10**6).input_ids) for row in rows]
    assert (report.usable, report.cut_rows, report.lost_rows, report.error_count) == (True, 0, 1, 0)
    assert report.windows == sum(-(-length // LONGEST) for length in lengths[1:])
    assert report.document_max == report.length_max == max(lengths)
    prepared = prepare_training(dataset, chat_tokenizer, LONGEST, dataset.folder, "error").report
    assert prepared.train_windows + prepared.held_out_windows == report.windows


def test_errors_are_the_first_wherever_they_are_found(imported):
    long = Example.question("q", "long " * 100)
    rows = [long if number % 2 else f"row {number + 1} is broken" for number in range(2_000)]
    report, _ = imported([*rows, *questions(3)], cut_rows="error")
    assert report.error_count == 2_000
    assert [error.number for error in report.errors] == list(range(1, 21))


CALLED = json.dumps([{"type": "function", "function": {"name": "look", "arguments": {"at": "table"}}}])


@pytest.mark.parametrize(
    "messages",
    [
        (Message("user", "Look."), Message("assistant", None, tool_calls=CALLED)),
        (
            Message("user", "Look."),
            Message("assistant", None, tool_calls=CALLED),
            Message("tool", "A lamp."),
            Message("assistant", "It is a lamp."),
        ),
    ],
)
@pytest.mark.parametrize("tools", [None, '[{"type":"function","function":{"name":"look"}}]'])
def test_tools_that_a_template_has_no_place_for_are_learned_in_words_and_counted(
    imported, chat_tokenizer, messages, tools
):
    row = Example(messages, tools=tools)
    report, dataset = imported([*questions(3), row], cut_rows="truncate")
    assert (report.usable, report.rows_told_in_words) == (True, 1)
    assert any("1 of 4 rows hold tools or calls that" in warning for warning in report.warnings)
    # What is stored is what came in.
    assert list(dataset)[3] == row
    learned = tokenize(row, chat_tokenizer, 512)
    pairs = zip(learned.input_ids, learned.labels, strict=True)
    words = chat_tokenizer.decode([token_id for token_id, label in pairs if label >= 0])
    assert '<tool_call>\n{"name": "look", "arguments": {"at": "table"}}\n</tool_call>' in words
    # A request with the same turns reads what was learned.
    before = messages[:-1]
    prompt = GenerationPrompts(chat_tokenizer).prompt(before, tools)
    assert learned.input_ids[: len(prompt.token_ids)] == prompt.token_ids
