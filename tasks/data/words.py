"""Tokenizes texts word by word, each word once: many times as fast as a tokenizer that does it anew for each text.

Byte-level BPE cuts a text into words by a regular expression, and no token reaches over their borders. So the ids of a
text are those of its words, and a data set has far fewer words than it has text. What is not known to be cut here as
the tokenizer cuts it (a tokenizer of another kind, characters of rare scripts) is left to the tokenizer.
"""

import json
import re
import unicodedata

import regex
from tokenizers import Tokenizer, models

from tasks.data.segments import id_bytes

MOST_WORDS = 100_000
"""Words whose ids are kept, about 200 bytes each."""
LONGEST_WORD = 64
"""Longer ones are not kept: they are hardly words."""

KNOWN_CHARACTERS = (
    "\t\n\r -~¡-ž\u0180-\u024f\u0391-\u03a1\u03a3-\u03a9\u03b1-\u03c9\u0410-\u044f\u0401\u0451"
    "\u2010-\u2027\u2030-\u205e\u20a0-\u20b1\u2190-\u23ce\u2500-\u2671\u3001-\u3020\u3041-\u3094\u30a1-\u30fe"
    "\u4e00-\u9fa5\uac00-\ud7a3\uff01-\uff5e\U0001f300-\U0001f64f\U0001f680-\U0001f6c5\U0001f910-\U0001f9ff"
)
"""Characters that are letters, numbers and spaces in all versions of Unicode alike, with no case or mark of their own
kind. For them Python's expressions are the tokenizers'."""
_UNKNOWN = re.compile(f"[^{KNOWN_CHARACTERS}]")
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT2_DIGITS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"
"""GPT-2's where each digit has been cut out before: SmolLM's and StarCoder's."""
_AS_THEY_ARE = frozenset(
    rf"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{many}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    for many in ("", "{1,3}")
)
"""Qwen's and Llama 3's."""
_BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False}


class Words:
    """The words of a tokenizer with their ids."""

    def __init__(self, backend: Tokenizer, expression: str) -> None:
        """`expression` finds a text's words; see `words_of`."""
        self._model = backend.model
        self._find = regex.compile(expression).findall
        self._is_normalized = backend.normalizer is not None
        added = {token.content: number for number, token in backend.get_added_tokens_decoder().items()}
        longest_first = sorted(added, key=len, reverse=True)
        self._split = re.compile(f"({'|'.join(map(re.escape, longest_first))})").split if added else None
        self._number = {content: id_bytes([number]) for content, number in added.items()}
        self._words: dict[str, bytes] = {}
        self._chunks: dict[str, bytes] = {}
        """What stands between two spaces, with the ids that it has together with the first of them."""
        self._edges: dict[str, bytes] = {}
        """What texts begin or end with."""
        self._has_chunks = not any(" " in content for content in added)

    def token_ids(self, text: str) -> bytes | None:
        """Return a text's ids, 32 bits each; None if it has characters that the tokenizer may know otherwise.

        A space before anything but a space begins a word, in all expressions and whatever was before it. So what
        stands between single spaces has the same ids in every text.
        """
        chunks = text.split(" ")
        first, last = chunks[0], chunks[-1]
        if len(chunks) == 1 or not self._has_chunks or first[-1:].isspace() or not last or last[0].isspace():
            return self._whole(text)
        del chunks[0]
        beginning = self._edge(first)
        end: bytes | None = b""
        if last[-1].isspace():
            del chunks[-1]
            end = self._edge(f" {last}")
        found = list(map(self._chunks.get, chunks))
        if None in found:
            found = [ids or self._new_chunk(chunk) for ids, chunk in zip(found, chunks, strict=True)]
            if None in found:
                return self._whole(text)
        ids = b"".join(found)  # type: ignore[arg-type]
        return None if beginning is None or end is None else beginning + ids + end

    def _edge(self, text: str) -> bytes | None:
        ids = self._edges.get(text)
        return self._kept(self._edges, text, self._whole(text)) if ids is None else ids

    def _new_chunk(self, chunk: str) -> bytes | None:
        if not chunk or chunk[0].isspace() or chunk[-1].isspace():
            return None
        return self._kept(self._chunks, chunk, self._whole(f" {chunk}"))

    def _whole(self, text: str) -> bytes | None:
        if not text.isascii() or not text.isprintable():
            if _UNKNOWN.search(text):
                return None
            if self._is_normalized and not unicodedata.is_normalized("NFC", text):
                return None
        parts = self._split(text) if self._split is not None else [text]
        return b"".join(
            [self._number[part] if place % 2 else self._plain(part) for place, part in enumerate(parts) if part]
        )

    def _plain(self, text: str) -> bytes:
        return b"".join([self._words.get(word) or self._new_word(word) for word in self._find(text)])

    def _new_word(self, word: str) -> bytes:
        shown = word.encode().decode("latin-1").translate(_SHOWN)
        ids = id_bytes([token.id for token in self._model.tokenize(shown)])
        self._kept(self._words, word, ids)
        return ids

    @staticmethod
    def _kept(place: dict[str, bytes], text: str, ids: bytes | None) -> bytes | None:
        if ids is not None and len(text) <= LONGEST_WORD:
            if len(place) >= MOST_WORDS:
                place.clear()
            place[text] = ids
        return ids


def words_of(backend: Tokenizer) -> Words | None:
    """Return the words of a tokenizer; None if it is none that is cut and joined as it is done here."""
    expression = _expression(backend)
    plain = all(
        not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        for token in backend.get_added_tokens_decoder().values()
    )
    normalizer = json.loads(backend.normalizer.__getstate__()) if backend.normalizer else {"type": "NFC"}
    if expression is None or not plain or normalizer != {"type": "NFC"} or backend.encode_special_tokens:
        return None
    return Words(backend, expression) if _is_plain_bpe(backend) else None


def _expression(backend: Tokenizer) -> str | None:
    """Return the expression for words, where the tokenizer's steps are known to be no more than that."""
    if backend.pre_tokenizer is None:
        return None
    step = json.loads(backend.pre_tokenizer.__getstate__())
    steps = step["pretokenizers"] if step["type"] == "Sequence" else [step]
    *before, last = ({name: value for name, value in step.items() if name != "trim_offsets"} for step in steps)
    if last == _BYTE_LEVEL | {"use_regex": True}:
        if not before:
            return _GPT2
        return _GPT2_DIGITS if before == [{"type": "Digits", "individual_digits": True}] else None
    if last != _BYTE_LEVEL | {"use_regex": False} or len(before) != 1 or before[0]["type"] != "Split":
        return None
    split = before[0]
    expression = split["pattern"].get("Regex")
    is_known = expression in _AS_THEY_ARE and split["behavior"] == "Isolated" and not split["invert"]
    return expression if is_known else None


def _is_plain_bpe(backend: Tokenizer) -> bool:
    model = backend.model
    changes = ("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk", "byte_fallback")
    return isinstance(model, models.BPE) and not any(getattr(model, option) for option in changes)


def _shown_bytes() -> dict[int, str]:
    """Return how byte-level vocabularies show bytes that are no visible characters."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in set(visible)]
    return {byte: chr(256 + place) for place, byte in enumerate(hidden)}


_SHOWN = _shown_bytes()
