"""Windows of a long document, put together, are the ids of tokenizing it whole, whatever the tokenizer."""

import random

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tasks.data.examples import Example
from tasks.data.long_texts import CHUNK, LONG, LongTexts
from tasks.data.prepared import prepare_training
from tasks.data.rows import ListedExamples
from tasks.data.segments import CONTEXT
from tasks.data.split import split_by_hash
from tests.tasks.data.reading.written_files import read_examples

LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SENTENCE = "the fox jumped over a lazy dog and naïve friends went home because it was 2026 ; don't you see the river"
WORDS = SENTENCE.split()


def prose(seed: int, words: int, line: str = "\n") -> str:
    """Wrapped lines that end within sentences, as those of a book."""
    draw = random.Random(seed)
    text = [draw.choice(WORDS) + draw.choice(["", "", "", ",", ".", "…"]) for _ in range(words)]
    return "".join(word + (line if number % 9 == 8 else " ") for number, word in enumerate(text)).rstrip()


def program(seed: int, lines: int) -> str:
    draw = random.Random(seed)
    rows = [f"{' ' * 4 * draw.randrange(3)}{draw.choice(WORDS)}({draw.randrange(999)}) // a" for _ in range(lines)]
    return "def main():\n" + "\n".join(rows)


DOCUMENTS = {
    "prose": prose(1, 4_000),
    "program": program(2, 900),
    "tabs": program(3, 600).replace("    ", "\t"),
    "one line": prose(4, 4_000, " "),
    "no spaces": "".join(random.Random(5).choices("狐が来た食べ物は無い。", k=9_000)),
    "emoji": "\n".join("🦊👩‍👩‍👧 a" * 5 for _ in range(400)),
}
SPECIAL = ["<unk>", "<s>", "</s>"]


def _bpe(normalizer=None, pre_tokenizer=None, **options) -> Tokenizer:
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True, **options))
    trainer = trainers.BpeTrainer(
        vocab_size=900,
        special_tokens=[*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    return _trained(backend, trainer, normalizer, pre_tokenizer)


def _trained(backend, trainer, normalizer, pre_tokenizer) -> Tokenizer:
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.train_from_iterator([prose(9, 3_000), program(9, 300)], trainer)
    return backend


def _unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(vocab_size=500, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False)
    metaspace = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    return _trained(Tokenizer(models.Unigram()), trainer, normalizers.NFKC(), metaspace)


def _word_piece() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=500, special_tokens=SPECIAL, show_progress=False)
    backend = Tokenizer(models.WordPiece(unk_token="<unk>"))
    return _trained(backend, trainer, normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer())


LLAMA_2 = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
SPLIT = pre_tokenizers.Split(Regex(LLAMA_3), "isolated")
TOKENIZERS = {
    "GPT-2": lambda: _bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=False)),
    "Llama 3": lambda: _bpe(
        pre_tokenizer=pre_tokenizers.Sequence(
            [SPLIT, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    ),
    "RoBERTa": lambda: _bpe(pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "Llama 2": lambda: _bpe(LLAMA_2),
    "Mistral": lambda: _bpe(pre_tokenizer=pre_tokenizers.Metaspace(prepend_scheme="first", split=True)),
    "Unigram": _unigram,
    "WordPiece": _word_piece,
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    backend = TOKENIZERS[request.param]()
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def knows(tokenizer, text: str) -> bool:
    """Whether no word is unknown: how many characters one unknown token stands for depends on all of them."""
    return tokenizer.unk_token_id not in tokenizer(text, add_special_tokens=False)["input_ids"]


def whole_ids(text: str, tokenizer) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]


@pytest.fixture(params=DOCUMENTS)
def document(request, tmp_path):
    path = tmp_path / "document.txt"
    path.write_text(DOCUMENTS[request.param], "utf-8", newline="")
    return DOCUMENTS[request.param], read_examples(path)


@pytest.mark.parametrize("longest", [64, 1_000])
def test_windows_of_a_document_are_the_document(document, tokenizer, longest, tmp_path):
    text, pieces = document
    assert len(pieces) > 5
    if not knows(tokenizer, text):
        return
    own = ListedExamples([Example(text="something else"), Example(text="held out")])
    prepared = prepare_training(ListedExamples(pieces), tokenizer, longest, tmp_path / "cache", held_out=own)
    ids = [token for window in prepared.train for token in window.input_ids]
    assert ids == whole_ids(text, tokenizer)
    assert prepared.train.lengths[:-2] == [longest] * (len(prepared.train) - 2)
    assert prepared.report.train_windows == -(-len(ids) // longest)
    assert prepared.report.train_rows == len(pieces)


def test_pieces_that_are_held_out_part_a_document(document, tokenizer, tmp_path):
    text, pieces = document
    if not knows(tokenizer, text):
        return
    rows = ListedExamples(pieces)
    prepared = prepare_training(rows, tokenizer, 64, tmp_path / "cache", held_out_fraction=0.2)
    split = split_by_hash(rows.hashes, 0.2)
    held_out = set(split.held_out.tolist())
    borders = sum((n in held_out) != (n + 1 in held_out) for n in range(len(pieces) - 1))
    assert borders > 0
    read = [row.input_ids for side in (prepared.train, prepared.held_out) for row in side]
    assert sum(map(len, read)) == len(whole_ids(text, tokenizer)) == prepared.report.tokens
    assert [row[-1] == tokenizer.eos_token_id for row in read].count(True) == 1
    assert sorted(token for row in read for token in row) == sorted(whole_ids(text, tokenizer))
    # No window has tokens of both sides: each is part of the document, within a run of pieces of one side.
    joined = " ".join(map(str, [*whole_ids(text, tokenizer), ""]))
    assert all(" ".join(map(str, row)) in joined for row in read)


def test_pieces_in_another_order_are_not_put_together(tmp_path):
    backend = TOKENIZERS["GPT-2"]()
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    path = tmp_path / "document.txt"
    path.write_text(DOCUMENTS["prose"])
    pieces = read_examples(path)[::-1]
    own = ListedExamples([Example(text="something else"), Example(text="held out")])
    prepared = prepare_training(ListedExamples(pieces), tokenizer, 10_000, tmp_path / "cache", held_out=own)
    assert [tokenizer.decode(row.input_ids) for row in prepared.train] == [
        piece.text + ("" if piece.after else "</s>") for piece in pieces
    ]


@pytest.mark.parametrize("name", ["prose", "program", "no spaces", "emoji"])
def test_long_text_has_the_ids_of_the_whole(name, tokenizer):
    text = DOCUMENTS[name] * (1 + 2 * LONG // len(DOCUMENTS[name]))
    assert len(text) > LONG + CHUNK
    expected = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert LongTexts(tokenizer.backend_tokenizer).ids(text).tolist() == expected


def test_text_that_is_cut_nowhere_has_them_too(tokenizer):
    """Runs of one character, and special tokens that lie on the borders of chunks."""
    draw = random.Random(3)
    texts = ["x" * (LONG + 20_000), " " * 80_000 + "x", "</s>" * 30_000, "a\n" * 50_000]
    texts.append("".join(draw.choice(["</s>", "a", "\n", "   "]) for _ in range(60_000)))
    for text in texts:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert LongTexts(tokenizer.backend_tokenizer).ids(text).tolist() == expected


def test_piece_whose_border_is_anywhere_has_its_part_of_the_whole(tokenizer):
    """Cut within a word, or a character's bytes' token: nothing is lost, nothing is twice."""
    text, backend = "the naïve fox was lazy because don't you see 2026\n" * 60, LongTexts(tokenizer.backend_tokenizer)
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    for cut in range(1_000, 1_060):
        left, right = text[:cut], text[cut:]
        ids = [*backend.ids(left, after=right[:CONTEXT]), *backend.ids(right, before=left[-CONTEXT:])]
        assert ids == whole


def test_piece_whose_tokens_depend_on_all_before_it_is_tokenized_by_itself(tokenizer):
    """Runs of one character: what a context can't tell, the pieces agree on."""
    backend = LongTexts(tokenizer.backend_tokenizer)
    for cut in range(1_500, 1_517):
        left, right = "y" * cut, "y" * (4_000 - cut)
        parts = [backend.ids(left, after=right[:CONTEXT]), backend.ids(right, before=left[-CONTEXT:])]
        if tokenizer.unk_token_id in parts[0]:
            return
        text = "".join(tokenizer.convert_ids_to_tokens(np.concatenate(parts).tolist()))
        assert text.count("y") == 4_000
