"""From examples to token ids: many at a time, in columns."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from tasks.data.examples import DatasetError, Example
from tasks.data.long_texts import LONG, LongTexts
from tasks.data.segments import IGNORED_LABEL, RenderedExample, Segment
from tasks.data.tokenizers import marks_beginnings
from tasks.data.tool_forms import ToolRenderer
from tasks.data.words import words_of

ROWS_PER_CALL = 256
"""Rows handed to the tokenizer at once: enough to keep its threads busy, few enough to stay small."""
CHARACTERS_PER_CALL = 4_000_000
"""Fewer rows go together where they are long."""
CHECKED_AT_FIRST = 64
"""Texts whose words are compared with the tokenizer, of the first call."""


T = TypeVar("T")
Spans = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """A row of token ids, cut to the longest length allowed; `full_length` is its length before the cut."""

    input_ids: list[int]
    learned_spans: Spans
    """(start, end) of each answer that is left, in order."""
    full_length: int
    span_weights: tuple[float, ...] | None = None
    """What each token of the spans counts in the loss, a number for each span; None where all are 1."""

    @property
    def labels(self) -> list[int]:
        """As long as `input_ids` and not shifted: the ids of the answers, IGNORED_LABEL over the rest."""
        labels = [IGNORED_LABEL] * len(self.input_ids)
        for start, end in self.learned_spans:
            labels[start:end] = self.input_ids[start:end]
        return labels

    @property
    def weights(self) -> list[float] | None:
        """What each label counts in the loss, as long as `input_ids`; None where all count 1."""
        if self.span_weights is None:
            return None
        weights = [0.0] * len(self.input_ids)
        for (start, end), weight in zip(self.learned_spans, self.span_weights, strict=True):
            weights[start:end] = [weight] * (end - start)
        return weights

    @property
    def prompt_length(self) -> int:
        """Tokens before the last answer that is left: what generation is given."""
        return self.learned_spans[-1][0] if self.learned_spans else len(self.input_ids)

    @property
    def was_cut(self) -> bool:
        """Whether tokens were cut off the end."""
        return self.full_length > len(self.input_ids)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are predicted, and so carry a loss; nothing predicts the first token of a row."""
        return sum(end - max(start, 1) for start, end in self.learned_spans if end > 1)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Whole rows of token ids, in columns: each row's ids follow those of the row before."""

    token_ids: NDArray[np.int32]
    lengths: NDArray[np.int32]
    """Tokens of each row."""
    spans: NDArray[np.int32]
    """(learned segments, 2): where each starts and ends in its row."""
    span_counts: NDArray[np.int32]
    """Learned segments of each row."""
    span_weights: NDArray[np.float32] | None = None
    """What each token of the learned segments counts in the loss, a number for each; None where all are 1."""
    are_texts: NDArray[np.bool_] | None = None
    """Which rows are plain texts, learned from their first token to their last; None where none is."""
    links: NDArray[np.int32] | None = None
    """(rows, 2): two rows that follow each other are parts of one if the second number of the one is the first of the
    other, and not 0; None where all are 0."""

    def __len__(self) -> int:
        return len(self.lengths)

    @property
    def is_text(self) -> NDArray[np.bool_]:
        """Which rows are plain texts."""
        return np.zeros(len(self), np.bool_) if self.are_texts is None else self.are_texts

    @property
    def all_links(self) -> NDArray[np.int32]:
        """The links of each row."""
        return np.zeros((len(self), 2), np.int32) if self.links is None else self.links

    def only(self, wanted: NDArray[np.bool_]) -> "TokenBatch":
        """Return the wanted rows."""
        row_of_span = np.repeat(wanted, self.span_counts)
        return TokenBatch(
            self.token_ids[np.repeat(wanted, self.lengths)],
            self.lengths[wanted],
            self.spans[row_of_span],
            self.span_counts[wanted],
            None if self.span_weights is None else self.span_weights[row_of_span],
            None if self.are_texts is None else self.are_texts[wanted],
            None if self.links is None else self.links[wanted],
        )

    def answer_tokens(self, max_seq_length: int | None = None) -> NDArray[np.int64]:
        """Return for each row how many tokens carry a loss, whole or cut; see `TokenizedExample.answer_tokens`."""
        return answer_tokens(self.spans, self.span_counts, max_seq_length)

    def cut_rows(self, max_seq_length: int) -> Iterator[TokenizedExample]:
        """Yield the rows, each cut to `max_seq_length` tokens."""
        ends, span_ends = np.cumsum(self.lengths), np.cumsum(self.span_counts)
        for end, length, span_end, count in zip(ends, self.lengths, span_ends, self.span_counts, strict=True):
            ids, spans = self.token_ids[end - length : end], self.spans[span_end - count : span_end]
            weights = None if self.span_weights is None else self.span_weights[span_end - count : span_end]
            yield cut(ids, spans, max_seq_length, weights)


def joined(batches: Sequence[TokenBatch]) -> TokenBatch:
    """Return the rows of all batches as one."""
    return TokenBatch(
        np.concatenate([batch.token_ids for batch in batches]),
        np.concatenate([batch.lengths for batch in batches]),
        np.concatenate([batch.spans for batch in batches]),
        np.concatenate([batch.span_counts for batch in batches]),
        _joined_weights(batches),
        np.concatenate([batch.is_text for batch in batches]),
        np.concatenate([batch.all_links for batch in batches]),
    )


def _joined_weights(batches: Sequence[TokenBatch]) -> NDArray[np.float32] | None:
    if all(batch.span_weights is None for batch in batches):
        return None
    ones = (np.ones(len(batch.spans), np.float32) for batch in batches)
    return np.concatenate(
        [one if batch.span_weights is None else batch.span_weights for batch, one in zip(batches, ones, strict=True)]
    )


def cut(
    token_ids: NDArray[np.int32],
    spans: NDArray[np.int32],
    max_seq_length: int,
    span_weights: NDArray[np.float32] | None = None,
) -> TokenizedExample:
    """Return a row with its first `max_seq_length` tokens.

    A longer row loses its end, and with it the token that ends it: the model must not learn to stop in the middle of a
    sentence. A row that keeps no `answer_tokens` is of no use; the caller leaves it out and counts it.
    """
    kept = token_ids[:max_seq_length].tolist()
    within = tuple((start, min(end, len(kept))) for start, end in spans.tolist() if start < len(kept))
    weights = None if span_weights is None or (span_weights == 1).all() else tuple(span_weights[: len(within)].tolist())
    return TokenizedExample(kept, within, len(token_ids), weights)


def answer_tokens(
    spans: NDArray[np.int32], span_counts: NDArray[np.int32], max_seq_length: int | None
) -> NDArray[np.int64]:
    """Return for each row how many tokens carry a loss; the arguments are as in `TokenBatch`."""
    ends = spans[:, 1] if max_seq_length is None else np.minimum(spans[:, 1], max_seq_length)
    kept = np.maximum(ends - np.maximum(spans[:, 0], 1), 0)
    row_of = np.repeat(np.arange(len(span_counts)), span_counts)
    totals: NDArray[np.int64] = np.bincount(row_of, kept, len(span_counts)).astype(np.int64)
    return totals


class Encoder:
    """Tokenizes rendered rows so that no token straddles the border of an answer.

    That is how it is at inference, where the prompt is tokenized before there is an answer. Each segment is tokenized
    by itself, unless the tokenizer begins every text with a mark of its own (SentencePiece's `▁`): an answer would
    begin with one that it does not have after its prompt. There the row is tokenized whole, and cut.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._backend = _own_copy(tokenizer) if tokenizer.is_fast else None
        self._words = words_of(self._backend) if self._backend is not None else None
        self._calls = 0
        self._marks_beginnings = marks_beginnings(tokenizer)
        self._long_texts: LongTexts | None = None

    def encode(self, rows: Sequence[RenderedExample]) -> TokenBatch:
        """Return the rows' token ids."""
        segments = [segment for row in rows for segment in row.segments]
        pieces = self._pieces(rows)
        widths = np.fromiter(map(len, pieces), np.int32, len(pieces)) // np.dtype(np.int32).itemsize
        token_ids = np.frombuffer(b"".join(pieces), np.int32)
        row_of = np.repeat(np.arange(len(rows)), [len(row.segments) for row in rows])
        lengths = np.bincount(row_of, widths, len(rows)).astype(np.int32)
        learned = np.fromiter((segment.learned for segment in segments), np.bool_, len(segments))
        ends = np.cumsum(widths) - (np.cumsum(lengths) - lengths)[row_of]
        spans = np.stack([ends - widths, ends], axis=1)[learned].astype(np.int32)
        span_counts = np.bincount(row_of[learned], minlength=len(rows)).astype(np.int32)
        weights = np.ones(len(spans), np.float32) if any(row.weights for row in rows) else None
        if weights is not None:
            for row, end, count in zip(rows, np.cumsum(span_counts), span_counts, strict=True):
                weights[end - count : end] = row.weights or 1
        are_texts = np.fromiter((row.is_text for row in rows), np.bool_, len(rows))
        links = np.array([row.links for row in rows], np.int32) if any(any(row.links) for row in rows) else None
        return TokenBatch(token_ids, lengths, spans, span_counts, weights, are_texts, links)

    def _pieces(self, rows: Sequence[RenderedExample]) -> list[bytes]:
        """Return the ids of each row's segments, 32 bits each."""
        long = {number: self._long(row) for number, row in enumerate(rows) if _is_long(row)}
        if self._marks_beginnings:
            short = [self._cut_from_whole(row) for number, row in enumerate(rows) if number not in long]
        else:
            others = [row for number, row in enumerate(rows) if number not in long]
            ids = iter(self._one_by_one([segment for row in others for segment in row.segments]))
            short = [[next(ids) for _ in row.segments] for row in others]
        rest = iter(short)
        return [piece for number in range(len(rows)) for piece in (long[number] if number in long else next(rest))]

    def _long(self, row: RenderedExample) -> list[bytes]:
        """Return the ids of a long text, or of a piece of one."""
        if self._backend is None:
            return self._one_by_one(row.segments)
        if self._long_texts is None:
            self._long_texts = LongTexts(self._backend)
        return [self._long_texts.ids(row.text, row.before, row.after).astype(np.int32).tobytes()]

    def _one_by_one(self, segments: Sequence[Segment]) -> list[bytes]:
        """Return each segment's ids, 32 bits each, those of what is tokenized already before those of the rest."""
        rest = self._token_ids(
            [text[begun : len(text) - ended] if begun or ended else text for text, _, _, begun, _, ended in segments]
        )
        return [begins + ids + ends for (_, _, begins, _, ends, _), ids in zip(segments, rest, strict=True)]

    def _cut_from_whole(self, row: RenderedExample) -> list[bytes]:
        """Return each segment's ids as they are in the whole row; by themselves where a token straddles a border."""
        assert self._backend is not None
        if any(segment.token_ids or segment.end_ids for segment in row.segments):
            # Control tokens that the row spells as words are tokenized already, and can't be told in its text.
            return self._one_by_one(row.segments)
        whole = self._backend.encode(row.text, add_special_tokens=False)
        starts, ends = np.array(whole.offsets, np.int64).reshape(-1, 2).T
        borders = np.cumsum([len(segment.text) for segment in row.segments])
        if any(((starts < border) & (ends > border)).any() for border in borders):
            return self._one_by_one(row.segments)
        places = [0, *(int((ends <= border).sum()) for border in borders)]
        ids = np.array(whole.ids, np.int32)
        return [ids[start:end].tobytes() for start, end in pairwise(places)]

    def _token_ids(self, texts: list[str]) -> list[bytes]:
        known = self._of_words(texts)
        rest = [text for text, ids in zip(texts, known, strict=True) if ids is None]
        by_tokenizer = (np.array(ids, np.int32).tobytes() for ids in self._by_tokenizer(rest)) if rest else iter(())
        return [next(by_tokenizer) if ids is None else ids for ids in known]

    def _of_words(self, texts: list[str]) -> list[bytes | None]:
        """Return the ids of texts whose words are known to be cut as the tokenizer cuts them.

        The first texts, and one of each later call, are compared with the tokenizer itself. Where the first differ, it
        takes the words' place; later the work ends with a DatasetError, as what went before may be wrong.
        """
        nothing: list[bytes | None] = [None] * len(texts)
        if self._words is None or not texts:
            return nothing
        known = [self._words.token_ids(text) for text in texts]
        self._calls += 1
        places = range(min(len(texts), CHECKED_AT_FIRST)) if self._calls == 1 else [self._calls % len(texts)]
        places = [place for place in places if known[place] is not None]
        expected = self._by_tokenizer([texts[place] for place in places]) if places else []
        if all(known[place] == np.array(ids, np.int32).tobytes() for place, ids in zip(places, expected, strict=True)):
            return known
        if self._calls > 1:
            raise DatasetError(
                "the tokenizer makes other tokens of a text than of its words, which should not be possible: please "
                "report it, with the tokenizer"
            )
        self._words = None
        return nothing

    def _by_tokenizer(self, texts: list[str]) -> Sequence[Sequence[int]]:
        # Rendered text spells its special tokens out, so the tokenizer must not add them a second time; and a row
        # longer than the model's context is cut by us, not warned about.
        if self._backend is None:
            return self._tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[no-any-return]
        return [row.ids for row in self._backend.encode_batch_fast(texts, add_special_tokens=False)]


def _is_long(row: RenderedExample) -> bool:
    return row.is_text and bool(row.before or row.after or len(row.segments[0].text) >= LONG)


def _own_copy(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Return the tokenizer's core as no other thread sets it, and as no earlier call to pad or truncate left it.

    Its vocabulary is shared, not copied.
    """
    original: Tokenizer = tokenizer.backend_tokenizer
    backend = Tokenizer(original.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(original, part)) is not None:
            setattr(backend, part, value)
    added = sorted(original.get_added_tokens_decoder().items())
    for _, token in added:
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
    if str(sorted(backend.get_added_tokens_decoder().items())) != str(added):
        # Their numbers have gaps.
        backend = Tokenizer.from_str(original.to_str())
        backend.no_padding()
        backend.no_truncation()
    backend.encode_special_tokens = bool(tokenizer.split_special_tokens)
    return backend


def tokenize(example: Example, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> TokenizedExample:
    """Return one example as token ids; see `cut`. Raises DatasetError as `ToolRenderer.row` does."""
    batch = Encoder(tokenizer).encode([ToolRenderer(tokenizer).row(example)[0]])
    return next(batch.cut_rows(max_seq_length))


def token_batches(examples: Iterable[Example], tokenizer: PreTrainedTokenizerBase) -> Iterator[TokenBatch]:
    """Yield the examples as token ids, in their order, not cut. Raises DatasetError as `ToolRenderer.row` does."""
    renderer = ToolRenderer(tokenizer)
    batches = batched_by_size(examples, characters_of)
    rendered = ([renderer.row(example)[0] for example in batch] for batch in batches)
    yield from encoded_ahead(rendered, Encoder(tokenizer))


def encoded_ahead(batches: Iterable[Sequence[RenderedExample]], encoder: Encoder) -> Iterator[TokenBatch]:
    """Yield each batch as token ids. It is tokenized, without Python's lock, while the next one is made ready."""
    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead: Future[TokenBatch] | None = None
        for batch in batches:
            ready, ahead = ahead, pool.submit(encoder.encode, batch)
            if ready is not None:
                yield ready.result()
        if ahead is not None:
            yield ahead.result()


def batched_by_size(rows: Iterable[T], size: Callable[[T], int]) -> Iterator[list[T]]:
    """Yield the rows in lists that are small enough to be tokenized at once; `size` counts a row's characters."""
    batch: list[T] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += size(row)
        if len(batch) >= ROWS_PER_CALL or characters >= CHARACTERS_PER_CALL:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def characters_of(example: Example) -> int:
    """Return about how long an example's text is."""
    if example.text is not None:
        return len(example.text)
    characters = 0
    for message in example.messages:
        characters += len(message.content or "") + len(message.reasoning or "")
    return characters
