"""Weights of messages become weights of tokens, and are kept where they are not all 1."""

import numpy as np
import pyarrow as pa
import pytest
from transformers import AutoTokenizer

from tasks.data.examples import Example, Message
from tasks.data.prepared import prepare
from tasks.data.rows import ListedExamples
from tasks.data.token_cache import TOKENS_FILE
from tasks.data.tokenizing import tokenize

TURNS = (
    Message("user", "1?"),
    Message("assistant", "one", weight=0.5),
    Message("user", "2?"),
    Message("assistant", "two", learned=False),
    Message("user", "3?"),
    Message("assistant", "three", weight=2.0),
)
MARKED = (
    "{% for m in messages %}{% if m.role == 'assistant' %}<|im_start|>a\n"
    "{% generation %}{{ m.content[:1] }}{% endgeneration %}-{% generation %}{{ m.content[1:] }}<|im_end|>"
    "{% endgeneration %}\n{% else %}<|im_start|>u\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
)


def weighted_texts(row, tokenizer):
    """The learned pieces of a row with what each of their tokens counts, from the list as long as the row."""
    assert [weight > 0 for weight in row.weights] == [label != -100 for label in row.labels]
    pieces: list[tuple[float, list[int]]] = []
    for place, (token, weight) in enumerate(zip(row.input_ids, row.weights, strict=True)):
        if weight == 0:
            continue
        if place and row.weights[place - 1] == weight:
            pieces[-1][1].append(token)
        else:
            pieces.append((weight, [token]))
    return [(weight, tokenizer.decode(ids)) for weight, ids in pieces]


@pytest.mark.parametrize("row_weight", [1.0, 0.5])
def test_each_token_of_a_turn_has_its_weight(chat_tokenizer, plain_tokenizer, row_weight):
    example = Example(TURNS, weight=row_weight)
    for tokenizer, end in ((chat_tokenizer, "<|im_end|>"), (plain_tokenizer, plain_tokenizer.eos_token)):
        row = tokenize(example, tokenizer, 512)
        found = weighted_texts(row, tokenizer)
        assert found == [(0.5 * row_weight, f"one{end}"), (2 * row_weight, f"three{end}")]
        plain = Example(tuple(Message(one.role, one.content, one.learned) for one in TURNS))
        unweighted = tokenize(plain, tokenizer, 512)
        assert (unweighted.input_ids, unweighted.labels) == (row.input_ids, row.labels)
        assert unweighted.weights is None


def test_template_that_marks_a_turn_in_pieces_weighs_them_alike(tiny_llama_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    tokenizer.chat_template = MARKED
    row = tokenize(Example(TURNS), tokenizer, 512)
    assert len(row.learned_spans) == 4
    assert row.span_weights == (0.5, 0.5, 2, 2)
    assert weighted_texts(row, tokenizer) == [
        (0.5, "o"),
        (0.5, "ne<|im_end|>"),
        (2, "t"),
        (2, "hree<|im_end|>"),
    ]


def test_text_has_the_weight_of_its_row(plain_tokenizer):
    row = tokenize(Example(text="The fox", weight=0.25), plain_tokenizer, 512)
    assert row.weights == [0.25] * len(row.input_ids)


def test_row_that_is_cut_keeps_the_weights_of_what_is_left(chat_tokenizer):
    whole = tokenize(Example(TURNS), chat_tokenizer, 512)
    for longest in range(1, len(whole.input_ids)):
        cut = tokenize(Example(TURNS), chat_tokenizer, longest)
        assert (cut.weights or [0.0] * longest) == whole.weights[:longest]


def test_cache_holds_weights_of_those_rows_only_that_have_any(chat_tokenizer, tmp_path):
    plain = [Example.question(f"What is {number}?", "one") for number in range(40)]
    some = [Example(one.messages, weight=0.5) if place % 10 == 0 else one for place, one in enumerate(plain)]
    folders = []
    for name, examples in (("plain", plain), ("some", some)):
        prepared = prepare(ListedExamples(examples), chat_tokenizer, 64, tmp_path / name)
        again = prepare(ListedExamples(examples), chat_tokenizer, 64, tmp_path / name)
        for rows in (prepared.train, again.train):
            for position, row in zip(rows.positions, rows, strict=True):
                assert row == tokenize(examples[position], chat_tokenizer, 64)
        (folder,) = (tmp_path / name).glob("tokens-*/")
        folders.append(folder)
    kept = []
    for folder in folders:
        with pa.OSFile(str(folder / TOKENS_FILE)) as file:
            table = pa.ipc.open_file(file).read_all()
        kept.append(np.array([len(weights) for weights in table.column("weights")]))
        assert table.column("weights").type == pa.list_(pa.float32())
    assert not kept[0].any()
    assert kept[1].tolist() == [1 if place % 10 == 0 else 0 for place in range(40)]


def test_weights_are_part_of_what_a_row_is():
    plain = Example.question("q", "a")
    turn = Example((plain.messages[0], Message("assistant", "a", weight=0.5)))
    row = Example(plain.messages, weight=0.5)
    texts = [Example(text="t"), Example(text="t", weight=0.5), Example(text="t", weight=2)]
    examples = [plain, turn, row, Example(turn.messages, weight=0.5), *texts]
    assert len({example.content_hash for example in examples}) == len(examples)
    assert [Example.from_json(example.as_json()) for example in examples] == examples
