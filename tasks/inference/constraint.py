"""Answers that keep to a JSON schema: at each step only tokens after which the text can still become a match.

The work is llguidance's (https://github.com/guidance-ai/llguidance); here its masks become torch's.
"""

import json
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# Free whitespace between tokens is an endless answer to a model that has not learned when to stop.
COMPACT = {"whitespace_flexible": False}
WORD_BITS = 32


class SchemaError(ValueError):
    """The JSON schema can't be followed; the sentence says why."""


def constraint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> LLTokenizer:
    """Return what constraints know of a tokenizer; takes a tenth of a second or more: keep it.

    Raises SchemaError for a tokenizer that is not a fast one.
    """
    try:
        return llguidance.hf.from_tokenizer(tokenizer)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"this model's tokenizer can't keep to a JSON schema: {error}") from error


class JsonConstraint:
    """One answer's way through a JSON schema."""

    def __init__(self, schema: dict[str, Any], tokenizer: LLTokenizer) -> None:
        """Begin an answer; raises SchemaError if the schema can't be followed."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT)
        except ValueError as error:
            raise SchemaError(f"the JSON schema can't be followed: {error}") from error
        if problem := LLMatcher.validate_grammar(grammar, tokenizer):
            raise SchemaError(f"the JSON schema can't be followed: {str(problem).splitlines()[0]}")
        self._matcher = LLMatcher(tokenizer, grammar)
        self._words = np.zeros(-(-tokenizer.vocab_size // WORD_BITS), dtype=np.int32)

    def allowed(self, vocabulary: int) -> Tensor:
        """Return which tokens may come next, as bools `[vocabulary]` on the CPU; at the end, the one that ends it."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[:vocabulary].astype(bool)
        # A model's head may be wider than its tokenizer.
        return torch.from_numpy(np.pad(bits, (0, vocabulary - len(bits))))

    def accept(self, token_id: int) -> None:
        """Go on behind a token that was allowed."""
        self._matcher.consume_token(token_id)
