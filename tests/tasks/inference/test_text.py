"""Text from tokens: whole characters only, deltas that join to the whole, and stop strings."""

import random

import pytest

from tasks.inference.text import StopStrings, TextStream, continuation_text
from tasks.models.loading import load_tokenizer

TEXTS = [
    "plain words, then more",
    "été à Zürich",
    "日本語のテキスト",
    "🙂👩‍👩‍👧‍👦 family 🏳️‍🌈",
    "tab\tnew\nline  two  spaces ",
]


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return load_tokenizer(tiny_llama_dir)


def stream(tokenizer, prompt_ids, token_ids, stop=()):
    text = TextStream(tokenizer, prompt_ids, stop)
    pieces = []
    for token_id in token_ids:
        pieces.append(text.push(token_id))
        if text.stopped:
            break
    return [*pieces, text.finish()], text


@pytest.mark.parametrize("text", TEXTS)
def test_pieces_are_whole_characters_and_join_to_the_text(tokenizer, text):
    prompt_ids = tokenizer("A prompt")["input_ids"]
    pieces, _ = stream(tokenizer, prompt_ids, tokenizer(text)["input_ids"])
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_cut_off_by_the_length_limit_is_left_out(tokenizer):
    ids = tokenizer("ok 🙂")["input_ids"]
    assert continuation_text(tokenizer, ids[:1], ids[:-1]) == "ok "
    assert continuation_text(tokenizer, ids[:1], ids) == "ok 🙂"


def test_invalid_bytes_do_not_hold_up_the_text_for_ever(tokenizer):
    stray = tokenizer.convert_tokens_to_ids("Ģ")  # the byte 0x80, which begins no character
    pieces, _ = stream(tokenizer, [], [stray] * 40 + tokenizer("🙂 end")["input_ids"])
    assert "".join(pieces) == "\ufffd" * 40 + "🙂 end"
    assert len("".join(pieces[:40])) > 35


def test_random_tokens_give_deltas_of_valid_text(tokenizer):
    randomness = random.Random(0)
    for _ in range(50):
        ids = [randomness.randrange(len(tokenizer)) for _ in range(30)]
        pieces, _ = stream(tokenizer, ids[:3], ids)
        "".join(pieces).encode("utf-8")
        assert "".join(pieces) == continuation_text(tokenizer, ids[:3], ids)


def test_special_tokens_are_not_text(tokenizer):
    ids = [tokenizer.eos_token_id, *tokenizer("word")["input_ids"], tokenizer.eos_token_id]
    assert continuation_text(tokenizer, [], ids) == "word"


def test_a_stop_string_across_tokens_ends_the_text_before_it(tokenizer):
    ids = tokenizer("one two three four")["input_ids"]
    pieces, text = stream(tokenizer, [], ids, stop=["three", "o thr"])
    assert "".join(pieces) == "one tw"
    assert text.stopped
    assert text.tokens < len(ids)


def test_nothing_that_may_begin_a_stop_string_is_let_out_early():
    stops = StopStrings(["END", "NDX"])
    assert [stops.push(piece) for piece in ["a", "E", "N", "x", "EN"]] == ["a", "", "", "ENx", ""]
    assert stops.flush() == "EN"
    assert not stops.found


def test_the_earliest_stop_string_wins():
    stops = StopStrings(["c", "b"])
    assert stops.push("abc") == "a"
    assert stops.found
    assert (stops.push("more"), stops.flush()) == ("", "")
