"""The text of an example, in the segments that are learned and those that are only read."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

IGNORED_LABEL = -100
"""Label of a token that takes no part in the loss, as in torch's cross entropy."""

CONTEXT = 512
"""Characters around a piece of a document that decide how its ends are tokenized."""


def id_bytes(token_ids: Sequence[int]) -> bytes:
    """Return token ids as 32 bits each, which is how they are joined and stored."""
    return np.array(token_ids, np.int32).tobytes()


class Segment(NamedTuple):
    """A piece of the text trained on; special tokens are spelled out in it.

    A named tuple because millions of them are made, and it is the quickest to make.
    """

    text: str
    learned: bool
    token_ids: bytes = b""
    """Those of the first `tokenized` characters, 32 bits each, where they are known already."""
    tokenized: int = 0
    end_ids: bytes = b""
    """Those of the last `ended` characters."""
    ended: int = 0


class RenderedExample(NamedTuple):
    """The text trained on, in its order. A learned segment is one answer, with the token that ends the turn."""

    segments: tuple[Segment, ...]
    spells_special_tokens: bool = False
    """Whether the row's own words spell any special token of the tokenizer."""
    weights: tuple[float, ...] = ()
    """What each token of the learned segments counts in the loss, a number for each segment; none if all are 1."""
    is_text: bool = False
    """Whether it is a plain text, learned from its first token to its last."""
    before: str = ""
    """Of a piece of a longer text the CONTEXT characters before it, and in `after` those behind it."""
    after: str = ""
    links: tuple[int, int] = (0, 0)
    """As in `Example.links`."""
    has_all_words: bool = False
    """Whether it is known to hold the words of every message; if not, they have to be looked for."""

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(segment.text for segment in self.segments)
