"""Streaming detokenisation: complete characters only, cut at the first stop string."""

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\ufffd"
"""What a decoder writes for bytes that are not (yet) a character."""
CONTEXT_TOKENS = 6
"""Prompt tokens decoded along with the first new ones: some tokenizers drop a leading space without them."""
CHARACTER_TOKENS = 4
"""A character is at most four bytes, hence at most four tokens."""


class IncrementalDecoder:
    """Decodes a growing list of tokens; an incomplete character is held back until its last byte.

    Source of the two-window method: text-generation-inference, `Model.decode_token`.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, prompt_ids: Sequence[int], hidden: frozenset[int] | None = None
    ) -> None:
        """`hidden` are the tokens that are no text; None: all special ones."""
        self._tokenizer = tokenizer
        self._hidden = hidden
        self._ids = list(prompt_ids[-CONTEXT_TOKENS:])
        self._context = 0  # where decoding starts
        self._emitted = len(self._ids)  # tokens before this one are already text
        self._known = self._decode(self._ids)  # the text from the one place to the other

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes: often a piece of a word, sometimes nothing."""
        self._ids.append(token_id)
        text = self._new_text(len(self._ids))
        if not text.endswith(REPLACEMENT):
            return self._emit(len(self._ids), text) if text else ""
        if len(self._ids) - self._emitted <= CHARACTER_TOKENS:
            return ""
        # Too long to be one character on its way: these bytes are invalid, only the last few may still become one.
        certain = len(self._ids) - CHARACTER_TOKENS + 1
        return self._emit(certain, self._new_text(certain))

    def flush(self) -> str:
        """Return what is held back, without a trailing incomplete character."""
        text = self._new_text(len(self._ids)).rstrip(REPLACEMENT)
        self._emitted = len(self._ids)
        return text

    def _new_text(self, end: int) -> str:
        return self._decode(self._ids[self._context : end])[len(self._known) :]

    def _emit(self, end: int, text: str) -> str:
        self._context, self._emitted = self._emitted, end
        self._known = self._decode(self._ids[self._context : end])
        return text

    def _decode(self, ids: list[int]) -> str:
        if self._hidden is not None:
            ids = [token_id for token_id in ids if token_id not in self._hidden]
        text = self._tokenizer.decode(ids, skip_special_tokens=self._hidden is None, clean_up_tokenization_spaces=False)
        return str(text)


class StopStrings:
    """Passes text through up to the earliest stop string; what may be the start of one waits."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self.matched: str | None = None
        """The stop string that was met."""

    @property
    def found(self) -> bool:
        """Whether one has been met."""
        return self.matched is not None

    def push(self, text: str) -> str:
        """Return the part of `text` (and of what was held) that can't belong to a stop string."""
        if self.found:
            return ""
        self._held += text
        starts = [(start, stop) for stop in self._stops if (start := self._held.find(stop)) >= 0]
        if starts:
            start, self.matched = min(starts)
            passed, self._held = self._held[:start], ""
            return passed
        keep = self._possible_start()
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def flush(self) -> str:
        """Return what was held: nothing follows, so it is no stop string."""
        passed, self._held = self._held, ""
        return passed

    def _possible_start(self) -> int:
        """Return the length of the longest end of the text that begins a stop string."""
        longest = min(max(map(len, self._stops), default=1) - 1, len(self._held))
        return next((n for n in range(longest, 0, -1) if any(s.startswith(self._held[-n:]) for s in self._stops)), 0)


class TextStream:
    """The continuation of one prompt as text: `push` every token, then `finish`; the pieces join to the full text."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt_ids: Sequence[int],
        stop: Sequence[str] = (),
        hidden: frozenset[int] | None = None,
    ) -> None:
        self._decoder = IncrementalDecoder(tokenizer, prompt_ids, hidden)
        self._stops = StopStrings(stop)
        self.offsets: list[int] = []
        """For each token pushed so far, the characters of the text that came before it."""
        self._length = 0

    @property
    def tokens(self) -> int:
        """How many tokens have been pushed so far."""
        return len(self.offsets)

    @property
    def length(self) -> int:
        """How many characters the tokens so far have completed, those behind a stop string too."""
        return self._length

    @property
    def stopped(self) -> bool:
        """Whether a stop string has been met: the generation can be cancelled."""
        return self._stops.found

    @property
    def stop_string(self) -> str | None:
        """The stop string that has been met."""
        return self._stops.matched

    def push(self, token_id: int) -> str:
        """Return the text that is certain after `token_id`."""
        self.offsets.append(self._length)
        text = self._decoder.push(token_id)
        self._length += len(text)
        return self._stops.push(text)

    def finish(self) -> str:
        """Return the rest of the text after the last token."""
        return self._stops.push(self._decoder.flush()) + self._stops.flush()


def continuation_text(
    tokenizer: PreTrainedTokenizerBase,
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    stop: Sequence[str] = (),
) -> str:
    """Return the text of `token_ids` as the continuation of `prompt_ids`, cut at the earliest stop string."""
    stream = TextStream(tokenizer, prompt_ids, stop)
    pieces: list[str] = []
    for token_id in token_ids:
        pieces.append(stream.push(token_id))
        if stream.stopped:
            break
    return "".join(pieces) + stream.finish()
