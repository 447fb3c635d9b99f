"""One step of the engine: choose the tokens each sequence reads, run the network, sample, and report the results."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tasks.inference.base import LoadedBase
from tasks.inference.errors import ConstraintFailed, InferenceError
from tasks.inference.generation import TokenLogprobs
from tasks.inference.network.step import StepBatch
from tasks.inference.request import FinishReason
from tasks.inference.sampling import Row, log_probabilities, sample
from tasks.inference.sequences import ActiveSequence, EmbeddedSequence, GeneratingSequence

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StepSize:
    """Token limits of one step (chunked prefill).

    A prompt is cut at multiples of `chunk` tokens whatever else is in the batch, so that batching does not change its
    numbers. A step holds one token of each decoding sequence, then prompt chunks while the sum is at most `tokens`,
    but always at least one chunk.
    """

    chunk: int
    tokens: int


CPU_STEP = StepSize(chunk=128, tokens=256)
GPU_STEP = StepSize(chunk=512, tokens=2048)


Ended = Callable[[ActiveSequence, FinishReason | InferenceError], None]


def schedule(sequences: Sequence[ActiveSequence], size: StepSize) -> list[tuple[ActiveSequence, int]]:
    """Return the sequences of the next step with their token counts: decoding ones first, then prompts as admitted.

    Prompts whose own log-probabilities are asked for take logits of all tokens: at most a chunk of them at a time.
    """
    chosen = [(sequence, 1) for sequence in sequences if sequence.prompt_read]
    tokens, reading, scored = len(chosen), 0, 0
    for sequence in sequences:
        if sequence.prompt_read:
            continue
        length = sequence.next_length(size.chunk)
        its_scored = length if isinstance(sequence, GeneratingSequence) and sequence.scores_prompt else 0
        if reading and tokens + length > size.tokens:
            break
        if scored and scored + its_scored > size.chunk:
            break
        chosen.append((sequence, length))
        tokens, reading, scored = tokens + length, reading + 1, scored + its_scored
    # Adjacent sequences with the same adapter share one product.
    return sorted(chosen, key=lambda pair: pair[0].adapter_number)


def decode_step(base: LoadedBase, sequences: Sequence[ActiveSequence], size: StepSize, ended: Ended) -> int:
    """Advance the sequences by one step and call `ended` for each that finishes; an error ends all in the step.

    Returns the number of tokens sampled.
    """
    pieces = schedule(sequences, size)
    embedded = [(sequence, count) for sequence, count in pieces if isinstance(sequence, EmbeddedSequence)]
    generating = [(sequence, count) for sequence, count in pieces if isinstance(sequence, GeneratingSequence)]
    if embedded:
        _embed(base, embedded, ended)
    return _generate(base, generating, ended) if generating else 0


def _embed(base: LoadedBase, pieces: Sequence[tuple[EmbeddedSequence, int]], ended: Ended) -> None:
    """Read the pieces of embedding requests: no logits are computed and nothing is sampled."""
    try:
        with torch.inference_mode():
            sums = base.network.sum_states(_read(pieces), base.arena)
            outcomes = [sequence.add(states) for (sequence, _), states in zip(pieces, sums, strict=True)]
    except Exception as error:
        logger.exception("a step failed")
        _fail_all(pieces, error, ended)
        return
    for (sequence, _), outcome in zip(pieces, outcomes, strict=True):
        if outcome is not None:
            ended(sequence, outcome)


def _generate(base: LoadedBase, pieces: Sequence[tuple[GeneratingSequence, int]], ended: Ended) -> int:
    """Read the pieces and sample a token for each sequence whose prompt has been read; return how many."""
    try:
        with torch.inference_mode():
            logits = base.network.step(_read(pieces), base.arena)
            places = _score_prompts(logits, pieces)
            ready = [sequence for sequence, _ in pieces if sequence.samples]
            rows, failed = _rows(ready)
            if failed or len(places) < len(logits):
                kept = [place for place, row in zip(places, rows, strict=True) if row is not None]
                logits = logits[torch.tensor(kept, dtype=torch.int64, device=logits.device)]
            ready = [sequence for sequence in ready if sequence not in failed]
            tokens, logprobs = _sample(logits, ready, [row for row in rows if row is not None])
    except Exception as error:
        logger.exception("a step failed")
        _fail_all(pieces, error, ended)
        return 0
    for sequence, failure in failed.items():
        ended(sequence, failure)
    for sequence, token_id, its in zip(ready, tokens, logprobs, strict=True):
        if (outcome := sequence.take(token_id, its)) is not None:
            ended(sequence, outcome)
    for sequence, _ in pieces:
        if sequence.prompt_read and not sequence.samples:
            ended(sequence, "length")  # nothing but its prompt's log-probabilities was asked for
    return len(ready)


def _rows(
    ready: Sequence[GeneratingSequence],
) -> tuple[list[Row | None], dict[GeneratingSequence, ConstraintFailed]]:
    """Return what each sequence's next token is sampled with, and the sequences that have none, with the reason."""
    rows: list[Row | None] = []
    failed: dict[GeneratingSequence, ConstraintFailed] = {}
    for sequence in ready:
        try:
            rows.append(sequence.row())
        except ConstraintFailed as error:
            rows.append(None)
            failed[sequence] = error
    return rows, failed


def _sample(
    logits: Tensor, ready: Sequence[GeneratingSequence], rows: Sequence[Row]
) -> tuple[list[int], list[TokenLogprobs | None]]:
    """Return a token and its log-probabilities for each row of the logits, those of the sequences `ready`."""
    if not ready:
        return [], []
    chosen = sample(logits, rows)
    return chosen.tolist(), _logprobs(logits, chosen, [each.generation.request.logprobs for each in ready])


def _score_prompts(logits: Tensor, pieces: Sequence[tuple[GeneratingSequence, int]]) -> list[int]:
    """Deliver the log-probabilities of prompt tokens just read, and return the rows of `logits` to sample from."""
    places, begin = [], 0
    for sequence, count in pieces:
        end = begin + sequence.logits_wanted(count)
        if sequence.scores_prompt:
            following = sequence.request.prompt_ids[sequence.cached - count + 1 : sequence.cached + 1]
            if following:
                chosen = torch.tensor(following, device=logits.device)
                asked = [sequence.generation.request.prompt_logprobs] * len(following)
                found = _logprobs(logits[begin : begin + len(following)], chosen, asked)
                sequence.generation.prompt_logprobs += [each for each in found if each is not None]
        if sequence.samples:
            places.append(end - 1)
        begin = end
    return places


def _fail_all(pieces: Sequence[tuple[ActiveSequence, int]], error: Exception, ended: Ended) -> None:
    """End all sequences of a step that failed."""
    for sequence, _ in pieces:
        ended(sequence, InferenceError(f"the model failed while computing: {error}"))


def _read(pieces: Sequence[tuple[ActiveSequence, int]]) -> StepBatch:
    cached = [sequence.cached for sequence, _ in pieces]
    token_ids: list[int] = []
    positions: list[int] = []
    wants_logits: list[bool] = []
    first = [0]
    for sequence, count in pieces:
        positions += range(sequence.cached, sequence.cached + count)
        token_ids += sequence.read(count)
        wanted = sequence.logits_wanted(count)
        wants_logits += [False] * (count - wanted) + [True] * wanted
        first.append(len(token_ids))
    return StepBatch(
        token_ids=torch.tensor(token_ids),
        positions=torch.tensor(positions),
        first=torch.tensor(first, dtype=torch.int32),
        cache_start=torch.tensor([sequence.start for sequence, _ in pieces]),
        cached=torch.tensor(cached, dtype=torch.int32),
        adapter=torch.tensor([sequence.adapter_number for sequence, _ in pieces], dtype=torch.int32),
        wants_logits=torch.tensor(wants_logits),
    )


def _logprobs(logits: Tensor, chosen: Tensor, asked: Sequence[int | None]) -> list[TokenLogprobs | None]:
    """Return the log-probabilities of the rows that ask for them, each with as many likeliest tokens as it asks for."""
    found: list[TokenLogprobs | None] = [None] * len(asked)
    rows = [row for row, count in enumerate(asked) if count is not None]
    if not rows:
        return found
    most = max(count for count in asked if count is not None)
    if len(rows) < len(asked):
        place = torch.tensor(rows, device=logits.device)
        logits, chosen = logits[place], chosen[place]
    own, ranks, values, ids = (each.tolist() for each in log_probabilities(logits, chosen, most))
    for row, logprob, rank, top_values, top_ids in zip(rows, own, ranks, values, ids, strict=True):
        count = asked[row] or 0
        found[row] = TokenLogprobs(logprob, rank, dict(zip(top_ids[:count], top_values[:count], strict=True)))
    return found
