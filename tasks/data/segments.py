"""The text of an example, in the segments that are learned and those that are only read."""

from dataclasses import dataclass

IGNORED_LABEL = -100
"""Label of a token that takes no part in the loss, as in torch's cross entropy."""

CONTEXT = 512
"""Characters around a piece of a document that decide how its ends are tokenized."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of the text trained on; special tokens are spelled out in it."""

    text: str
    learned: bool
    token_ids: tuple[int, ...] = ()
    """Those of the first `tokenized` characters, where they are known already."""
    tokenized: int = 0


@dataclass(frozen=True, slots=True)
class RenderedExample:
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

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(segment.text for segment in self.segments)
