"""Conversations longer than a row: split between turns, each learned once; refused by number; or cut, as ever."""

import pytest
from transformers import AutoTokenizer

from tasks.data.chat_windows import Splitter
from tasks.data.examples import DatasetError, Example, Message
from tasks.data.prepared import PreparedRows, prepare, prepare_training
from tasks.data.rows import ListedExamples
from tasks.data.tokenizing import tokenize

LONGEST = 120
CALL = '[{"function":{"arguments":{"a":1},"name":"add"},"type":"function"}]'
WITH_TOOLS = (
    "{% if tools %}<|im_start|>tools\n{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] or '' }}"
    "{% for c in m.get('tool_calls') or [] %}{{ c['function'] | tojson }}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def user(words: int, name: str = "q") -> Message:
    return Message("user", f"{name} " * words)


def said(words: int, name: str = "a", **more) -> Message:
    return Message("assistant", f"{name} " * words, **more)


def rounds(count: int, words: int = 6) -> tuple[Message, ...]:
    return tuple(turn for n in range(count) for turn in (user(words, f"q{n}"), said(words, f"a{n}")))


SYSTEM = Message("system", "Be brief.")
CONVERSATIONS = {
    "short": Example(rounds(1)),
    "rounds": Example(rounds(12)),
    "system": Example((SYSTEM, *rounds(12))),
    "two systems": Example((SYSTEM, Message("system", "Be kind."), *rounds(9))),
    "assistant first": Example((said(4, "hi"), *rounds(9))),
    "weights": Example(
        tuple(
            Message(turn.role, turn.content, weight=0.5 if turn.role == "assistant" and n % 4 == 1 else 1.0)
            for n, turn in enumerate(rounds(9))
        ),
        weight=2.0,
    ),
    "some not learned": Example(
        tuple(
            Message(turn.role, turn.content, turn.role == "user" or n % 3 == 0 or n == 23)
            for n, turn in enumerate(rounds(12))
        )
    ),
    "last not learned": Example((*rounds(8), user(3), said(3, learned=False))),
    "uneven": Example(
        tuple(turn for n in range(10) for turn in (user(1 + 3 * (n % 4), f"q{n}"), said(1 + 9 * (n % 2), f"a{n}")))
    ),
    "tools": Example(
        (SYSTEM, *(t for n in range(5) for t in (user(3, f"q{n}"), Message("assistant", None, tool_calls=CALL),
         Message("tool", f"{n}"), said(4, f"a{n}")))),
        tools='[{"function":{"name":"add"},"type":"function"}]',
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def tool_tokenizer(tiny_llama_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.chat_template = WITH_TOOLS
    return tokenizer


def tokens(example: Example, tokenizer) -> int:
    return len(tokenize(example, tokenizer, 10**6).input_ids)


@pytest.mark.parametrize("longest", [112, LONGEST, 240, 10_000])
@pytest.mark.parametrize("name", CONVERSATIONS)
def test_each_turn_is_learned_in_one_window_after_as_much_history_as_fits(name, longest, tool_tokenizer):
    example = CONVERSATIONS[name]
    if tokens(example, tool_tokenizer) > longest and name == "tools":
        longest = max(longest, 200)
    windows = Splitter(tool_tokenizer, longest).windows(example)
    if tokens(example, tool_tokenizer) <= longest:
        assert windows == [example]
        return
    head = [message for message in example.messages if message.role == "system"]
    body = example.messages[len(head) :]
    learned = []
    for window in windows:
        assert tokens(window, tool_tokenizer) <= longest
        assert (window.tools, window.weight) == (example.tools, example.weight)
        assert list(window.messages[: len(head)]) == head
        turns = window.messages[len(head) :]
        place = next(
            n for n in range(len(body)) if [t.content for t in body[n : n + len(turns)]] == [t.content for t in turns]
        )
        assert place == 0 or turns[0].role == "user"
        assert turns[-1].is_target
        fresh = [place + n for n, turn in enumerate(turns) if turn.is_target]
        assert all(body[n] == turns[n - place] for n in fresh)
        learned += fresh
        # Neither another learned turn nor another question before would have fitted.
        following = [n for n, turn in enumerate(body) if turn.is_target and n > fresh[-1]]
        before = [n for n, turn in enumerate(body[:place]) if turn.role == "user" or n == 0]
        history = [t if t.role != "assistant" else Message(t.role, t.content, False, t.tool_calls) for t in body]
        if before:
            more = (*head, *history[before[-1] : fresh[0]], *body[fresh[0] : fresh[-1] + 1])
            assert tokens(Example(more, tools=example.tools), tool_tokenizer) > longest
        if following:
            nearest = max(n for n, t in enumerate(body) if n <= fresh[0] and (t.role == "user" or n == 0))
            more = (*head, *history[nearest : fresh[0]], *body[fresh[0] : following[0] + 1])
            assert tokens(Example(more, tools=example.tools), tool_tokenizer) > longest
    assert learned == [n for n, turn in enumerate(body) if turn.is_target]


@pytest.mark.parametrize(
    ("turns", "named"),
    [
        ((user(3), said(200)), 1),
        ((user(200), said(3)), 1),
        ((SYSTEM, *rounds(3), user(3), said(200), *rounds(3)), 8),
        ((Message("system", "x " * 100), *rounds(3)), 2),
    ],
)
def test_turn_that_no_window_holds_is_named_with_its_length(turns, named, chat_tokenizer):
    with pytest.raises(DatasetError) as caught:
        Splitter(chat_tokenizer, LONGEST).windows(Example(turns))
    assert str(caught.value).startswith(f"messages[{named}] has ")
    assert f"more than max_seq_length={LONGEST}, so no window holds it" in str(caught.value)


def prepared(examples, tokenizer, folder, cut_rows, longest=LONGEST, **options) -> PreparedRows:
    return prepare_training(ListedExamples(examples), tokenizer, longest, folder, cut_rows, **options)


def questions(count: int, words: int = 3) -> list[Example]:
    return [Example.question(f"What is {n}?", "one " * (n % words + 1)) for n in range(count)]


def test_rows_that_fit_are_the_same_whatever_is_done_with_those_that_do_not(chat_tokenizer, tmp_path):
    cut = prepare(ListedExamples(questions(40)), chat_tokenizer, LONGEST, tmp_path)
    for cut_rows in ("truncate", "error", "split"):
        rows = prepared(questions(40), chat_tokenizer, tmp_path, cut_rows)
        assert (list(rows.train), list(rows.held_out)) == (list(cut.train), list(cut.held_out))
        assert (rows.fingerprint, rows.report) == (cut.fingerprint, cut.report)
        assert rows.train.lengths == cut.train.lengths


def test_split_rows_are_read_as_their_windows_on_the_side_of_their_row(chat_tokenizer, tmp_path):
    names = ("rounds", "system", "weights", "uneven")
    examples = [*questions(20), *(CONVERSATIONS[name] for name in names), *questions(40)[20:]]
    rows = prepared(examples, chat_tokenizer, tmp_path, "split", held_out_fraction=0.4)
    again = prepared(examples, chat_tokenizer, tmp_path, "split", held_out_fraction=0.4)
    cut = prepare(ListedExamples(examples), chat_tokenizer, LONGEST, tmp_path, held_out_fraction=0.4)
    splitter = Splitter(chat_tokenizer, LONGEST)
    expected = [
        tokenize(window, chat_tokenizer, LONGEST)
        for position in cut.train.positions
        for window in splitter.windows(examples[position])
    ]
    assert list(rows.train) == expected
    assert rows.train.lengths == [len(row.input_ids) for row in expected]
    assert any(row.weights for row in (*rows.train, *rows.held_out))
    held_out = [
        tokenize(window, chat_tokenizer, LONGEST)
        for position in cut.held_out.positions
        for window in splitter.windows(examples[position])
    ]
    assert sorted(row.input_ids for row in rows.held_out) == sorted(row.input_ids for row in held_out)
    report = rows.report
    assert (report.rows, report.cut_rows, report.unusable_rows) == (44, 0, 0)
    assert (report.train_rows, report.held_out_rows) == (len(cut.train), len(cut.held_out))
    assert (report.train_windows, report.held_out_windows) == (len(expected), len(held_out))
    assert report.tokens == sum(len(row.input_ids) for row in (*expected, *held_out))
    assert report.answer_tokens == sum(row.answer_tokens for row in (*expected, *held_out))
    assert (list(again.train), list(again.held_out)) == (list(rows.train), list(rows.held_out))
    assert (again.fingerprint, again.report) == (rows.fingerprint, report)
    assert rows.fingerprint != cut.fingerprint


def test_row_that_can_not_be_split_is_named_by_its_number(chat_tokenizer, tmp_path):
    examples = [*questions(6), Example((*rounds(8), user(2), said(200))), *questions(9)[6:]]
    with pytest.raises(DatasetError, match=r"^row 7: messages\[17\] has \d+ tokens"):
        prepared(examples, chat_tokenizer, tmp_path, "split")


def test_rows_that_are_too_long_are_named_by_number_and_length(chat_tokenizer, tmp_path):
    long = [Example(rounds(12 + n)) for n in range(7)]
    examples = [*questions(6), *long, *questions(9)[6:], Example(text="one " * 500)]
    lengths = [tokens(example, chat_tokenizer) for example in long]
    with pytest.raises(DatasetError) as caught:
        prepared(examples, chat_tokenizer, tmp_path, "error", held_out_fraction=0.01)
    message = str(caught.value)
    assert f"rows are longer than max_seq_length={LONGEST} tokens: " in message
    named = [(number, length) for number, length in enumerate(lengths, 7) if f"row {number} has {length}" in message]
    assert len(named) == 5
    assert message.endswith("and so on; raise it, leave them out, or set cut_rows to split or truncate")
    rows = prepared([*questions(9), Example(text="one " * 500)], chat_tokenizer, tmp_path / "text", "error")
    assert rows.report.train_windows > rows.report.train_rows  # a text is no conversation
