"""Constrained decoding by a JSON schema: each step allows only tokens that can still lead to a match.

llguidance (https://github.com/guidance-ai/llguidance) computes the token masks; this module turns them into tensors. It
raises nothing: it falls into an error state, and then allows the end of the text, which must not pass for an answer.
"""

import json
from collections.abc import Collection
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tasks.inference.errors import ConstraintFailed
from tasks.inference.json_schema import SchemaError, prepare, repeats_items

# With free whitespace a model that has not learned when to stop would emit whitespace without end.
COMPACT = {"whitespace_flexible": False}
WORD_BITS = 32


def constraint_tokenizer(tokenizer: PreTrainedTokenizerBase, end_ids: Collection[int] = ()) -> LLTokenizer:
    """Return llguidance's view of a tokenizer. It takes 0.1 s or more to build: reuse it.

    `end_ids` are the tokens that may end an answer, the tokenizer's own if there are none. Raises SchemaError for a
    tokenizer that is not a fast one.
    """
    try:
        return llguidance.hf.from_tokenizer(tokenizer, eos_token=sorted(end_ids) or None)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"this model's tokenizer can't keep to one ({error})") from error


class JsonConstraint:
    """The state of one answer that must match a JSON schema."""

    def __init__(self, schema: dict[str, Any], tokenizer: LLTokenizer) -> None:
        """Compile the schema; raises SchemaError if it can't be followed."""
        self._schema, self._tokenizer = schema, tokenizer
        prepared = prepare(schema, lambda pattern: _defect({"type": "string", "pattern": pattern}, tokenizer))
        if problem := _defect(prepared.schema, tokenizer):
            raise SchemaError(problem)
        self._answer: list[int] | None = [] if prepared.unique_items else None
        self._matcher = LLMatcher(tokenizer, _grammar(prepared.schema))
        self._words = np.zeros(-(-tokenizer.vocab_size // WORD_BITS), dtype=np.int32)
        try:
            self._compute()
        except ConstraintFailed as error:
            raise SchemaError(error.reason) from error
        self._computed = True
        """Whether the words hold the tokens that may come next."""

    def allowed(self, vocabulary: int) -> Tensor:
        """Return the allowed next tokens as bools `[vocabulary]` on the CPU; after a full match only an end token.

        Raises `ConstraintFailed` if the engine gives up, or has no token to go on with.
        """
        if not self._computed:
            self._compute()
            self._computed = True
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[:vocabulary].astype(bool)
        if not bits.any():
            raise ConstraintFailed("no token of the model can go on with it")
        # A model's head may be wider than its tokenizer.
        return torch.from_numpy(np.pad(bits, (0, vocabulary - len(bits))))

    def accept(self, token_id: int) -> None:
        """Advance the state by an allowed token; raises `ConstraintFailed`."""
        self._computed = False
        if not self._matcher.consume_token(token_id):
            raise ConstraintFailed(_first_line(self._matcher.get_error()))
        if self._answer is not None:
            self._answer.append(token_id)

    def finish(self) -> None:
        """Raise `ConstraintFailed` unless what has been accepted is an answer."""
        if not self._matcher.is_accepting():
            raise ConstraintFailed(_first_line(self._matcher.get_error()) or "the answer ended before it was complete")
        if self._answer is not None:
            value = json.loads(self._tokenizer.decode_bytes(self._answer))
            if repeats_items(self._schema, value):
                raise ConstraintFailed("an array of the answer repeats an item, against its uniqueItems")

    def _compute(self) -> None:
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if self._matcher.is_error() or (self._matcher.is_stopped() and not self._matcher.is_accepting()):
            raise ConstraintFailed(_first_line(self._matcher.get_error()) or self._matcher.stop_reason())


def _grammar(schema: Any) -> str:
    try:
        return str(LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT))
    except ValueError as error:
        raise SchemaError(_first_line(str(error))) from error


def _defect(schema: Any, tokenizer: LLTokenizer) -> str | None:
    """Return why the engine can't follow a schema, as a sentence's part."""
    problem = str(LLMatcher.validate_grammar(_grammar(schema), tokenizer))
    if not problem or problem.startswith("WARNING"):
        return None
    # The parser of patterns shows the place on lines of their own, and says what is wrong on the last.
    return problem.splitlines()[-1].removeprefix("error: ") if "regex parse error" in problem else _first_line(problem)


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")[:300]
