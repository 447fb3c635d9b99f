"""Token ids of long texts: tokenized in overlapping chunks of bounded memory, to the ids of the whole text."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from tasks.data.segments import CONTEXT

LONG = 2**16
"""Characters from which on a text is tokenized in chunks: a tokenizer takes some hundred bytes for each."""
CHUNK = 2**15
OVERLAP = 1024
"""Characters that two chunks share. They are cut where both give the same tokens over half of that."""
CHUNKS_PER_CALL = 16


@dataclass(frozen=True, slots=True)
class _Tokens:
    """Tokens with the characters of the text that each is made of."""

    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, encoding: Encoding, offset: int) -> "_Tokens":
        spans = np.array(encoding.offsets, np.int64).reshape(-1, 2) + offset
        return cls(np.array(encoding.ids, np.int32), spans[:, 0], spans[:, 1])

    def within(self, start: int, end: int) -> "_Tokens":
        """Return those that begin from `start` on and before `end`."""
        wanted = (self.starts >= start) & (self.starts < end)
        return _Tokens(self.ids[wanted], self.starts[wanted], self.ends[wanted])

    def equals(self, other: "_Tokens", shift: int = 0) -> bool:
        """Whether these are the same tokens at the same places, `shift` characters further on."""
        return (
            np.array_equal(self.ids, other.ids)
            and np.array_equal(self.starts + shift, other.starts)
            and np.array_equal(self.ends + shift, other.ends)
        )

    def reach(self, border: int) -> int:
        """Return how many characters the tokens that begin before a border have behind it."""
        return int(np.max(self.ends[self.starts < border], initial=border)) - border


class LongTexts:
    """Tokenizes with a copy of a tokenizer's core that tells each token's characters as they are."""

    def __init__(self, backend: Tokenizer) -> None:
        content = json.loads(backend.to_str())
        # It adds nothing here, and some leave the spaces that belong to a token out of its characters.
        self._backend = Tokenizer.from_str(json.dumps(content | {"post_processor": None}))
        self._backend.encode_special_tokens = backend.encode_special_tokens

    def ids(self, text: str, before: str = "", after: str = "") -> NDArray[np.int32]:
        """Return the text's ids, as they are in its document between `before` and `after`.

        A token belongs to the piece that it begins in. So the ids of a document's pieces, put together, are those of
        the document, if each has CONTEXT characters of the others. Where the ids near a border depend on what is
        further away than that, the piece is tokenized by itself there: still nothing is lost or twice.
        """
        tokens = self._tokens(before + text + after)
        if not (before or after):
            return tokens.ids
        start, end = len(before), len(before) + len(text)
        width = min(CONTEXT, len(text)) // 2
        # What this piece and the one before it both know; and this and the next one.
        known, border = self._tokens(before + text[:CONTEXT]), len(before)
        begins = known.within(border, border + width).equals(tokens.within(start, start + width))
        taken = known.reach(border)
        known, border = self._tokens(text[-CONTEXT:] + after), len(text[-CONTEXT:])
        ends = known.within(border - width, border).equals(tokens.within(end - width, end), end - border)
        if (begins or not before) and (ends or not after):
            return tokens.within(start, end).ids
        lead = before if begins or not before else "\n"
        body = (text if lead == before else text[taken:]) + ("" if ends else after[: known.reach(border)])
        alone = self._tokens(lead + body + (after if ends else ""))
        if lead != before and alone.reach(len(lead)):
            return self._tokens(body).ids
        return alone.within(len(lead), len(lead) + len(body)).ids

    def _tokens(self, text: str) -> _Tokens:
        if len(text) < LONG:
            return self._encoded(text, 0, len(text))
        parts: list[_Tokens] = []
        begin, cut, tokens = 0, 0, None
        for start, stop, chunk in self._chunks(text):
            border = start + OVERLAP
            near = chunk.within(border - OVERLAP // 2, border + OVERLAP // 2)
            if tokens is None:
                tokens = chunk
            elif len(near.ids) and near.equals(tokens.within(border - OVERLAP // 2, border + OVERLAP // 2)):
                parts.append(tokens.within(cut, border))
                begin, cut, tokens = start, border, chunk
            else:
                # Such as one character again and again: its tokens depend on where it begins.
                tokens = self._encoded(text, begin, stop)
        assert tokens is not None
        parts.append(tokens.within(cut, len(text)))
        return _Tokens(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([part.starts for part in parts]),
            np.concatenate([part.ends for part in parts]),
        )

    def _encoded(self, text: str, start: int, stop: int) -> _Tokens:
        return _Tokens.of(self._backend.encode(text[start:stop], add_special_tokens=False), start)

    def _chunks(self, text: str) -> Iterator[tuple[int, int, _Tokens]]:
        borders = [*range(0, len(text) - CHUNK // 2, CHUNK), len(text)]
        bounds = [(max(0, start - OVERLAP), min(len(text), stop + OVERLAP)) for start, stop in pairwise(borders)]
        for first in range(0, len(bounds), CHUNKS_PER_CALL):
            some = bounds[first : first + CHUNKS_PER_CALL]
            encoded = self._backend.encode_batch([text[start:stop] for start, stop in some], add_special_tokens=False)
            for (start, stop), encoding in zip(some, encoded, strict=True):
                yield start, stop, _Tokens.of(encoding, start)
