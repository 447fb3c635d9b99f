"""Texts tokenized word by word have the ids that their tokenizer gives them, or are left to it."""

import random

import numpy as np
import pytest
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer

from tasks.data import words
from tasks.data.examples import DatasetError
from tasks.data.segments import RenderedExample, Segment
from tasks.data.tokenizing import Encoder
from tasks.data.words import Words, words_of

BYTES = {"add_prefix_space": False}
SPLITS = {
    expression: pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated"),
            pre_tokenizers.ByteLevel(**BYTES, use_regex=False),
        ]
    )
    for expression in sorted(words._AS_THEY_ARE)
}
CUT = {
    "GPT-2": pre_tokenizers.ByteLevel(**BYTES),
    "SmolLM": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(**BYTES)]),
    **SPLITS,
}
SAMPLE = "The fox's den isn't 12 or 345 miles off; it's NOT café ... über  \n\n\tx  y z 中文 <|end|> don't"
PIECES = [
    *(" ", "\n", "\t", "\r\n", "  ", "a", "Z", "é", "1", "23", "'s", "'S", "'ll", "!", "<|end|>", "<|begin|>", "_"),
    *("-", "café", "🦊", "中", "ж", "\u00a0", "<", "|", "…", "½", "\x0b", "\x1c", "\u2028", "\u017f", "e\u0301", "한"),
    *(" fox", " fox", " fox", " den,", " ", " ", "\U0001fae8", "ಕ", "\U000f0000"),
]


@pytest.fixture(scope="module", params=CUT, ids=["GPT-2", "SmolLM", "Qwen or Llama", "Llama or Qwen"])
def backend(request):
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = CUT[request.param]
    if request.param in SPLITS:
        made.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(
        vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    made.train_from_iterator([SAMPLE] * 9, trainer)
    made.add_special_tokens([AddedToken("<|end|>", normalized=False), AddedToken("<|begin|>", normalized=False)])
    return made


def assert_alike(known, backend, text) -> bool:
    """Return whether the text was tokenized word by word."""
    ids = known.token_ids(text)
    if ids is not None:
        assert np.frombuffer(ids, np.int32).tolist() == backend.encode(text, add_special_tokens=False).ids, text
    return ids is not None


def test_any_text_has_its_tokenizers_ids(backend):
    known, generator = words_of(backend), random.Random(3)
    texts = ["".join(generator.choices(PIECES, k=generator.randrange(14))) for _ in range(3000)]
    by_words = [assert_alike(known, backend, text) for text in texts]
    assert 0.2 < sum(by_words) / len(texts) < 0.9
    assert not any(assert_alike(known, backend, f"a {odd}") for odd in ("ಕ", "\U0001fae8", "\u017f", "\u00a0"))


def test_every_known_character_is_cut_as_the_tokenizer_cuts_it(backend):
    known = words_of(backend)
    characters = [chr(code) for code in range(0x20000) if not words._UNKNOWN.match(chr(code))]
    assert len(characters) > 30_000
    for place in range(0, len(characters), 200):
        some = characters[place : place + 200]
        for context in ("a%sb", " %s 1%s", "%s%s|"):
            assert_alike(known, backend, "".join(context.replace("%s", character) for character in some))


def test_words_are_forgotten_when_there_are_many(backend, monkeypatch):
    monkeypatch.setattr(words, "MOST_WORDS", 3)
    known = words_of(backend)
    for text in (SAMPLE, "one two three four five six seven", SAMPLE):
        assert assert_alike(known, backend, text)
    assert len(known._chunks) <= 3


@pytest.mark.parametrize(
    "change",
    [
        lambda made: setattr(made, "normalizer", normalizers.Lowercase()),
        lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.ByteLevel(add_prefix_space=True)),
        lambda made: setattr(made, "pre_tokenizer", pre_tokenizers.Metaspace()),
        lambda made: setattr(made, "model", models.BPE(byte_fallback=True)),
        lambda made: setattr(made, "model", models.WordLevel({"a": 0}, unk_token="a")),
        lambda made: made.add_tokens([AddedToken("<x>", lstrip=True)]),
        lambda made: setattr(made, "encode_special_tokens", True),
    ],
)
def test_other_tokenizers_are_left_alone(backend, change):
    other = Tokenizer.from_str(backend.to_str())
    assert words_of(other) is not None
    change(other)
    assert words_of(other) is None


def other_cuts(tokenizer) -> Words:
    """Words of the tokenizer's vocabulary, cut otherwise: each letter by itself."""
    return Words(tokenizer.backend_tokenizer, r"(?s).")


def ids_of(encoder, text) -> list[int]:
    return encoder.encode([RenderedExample((Segment(text, learned=True),), False)]).token_ids.tolist()


def test_words_that_are_cut_otherwise_than_the_tokenizer_cuts_are_not_used(tiny_llama_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    encoder, text = Encoder(tokenizer), "The future of the lazy dog is bright."
    encoder._words = other_cuts(tokenizer)
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert [token for letter in text for token in tokenizer(letter)["input_ids"]] != expected
    assert ids_of(encoder, text) == expected
    assert encoder._words is None


def test_words_that_turn_out_to_be_wrong_end_the_work(tiny_llama_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
    encoder = Encoder(tokenizer)
    assert ids_of(encoder, "The quick") == tokenizer("The quick")["input_ids"]
    encoder._words = other_cuts(tokenizer)
    with pytest.raises(DatasetError, match="other tokens of a text than of its words"):
        ids_of(encoder, "The future of the lazy dog is bright.")
