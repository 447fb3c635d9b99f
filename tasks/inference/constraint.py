"""Constrained decoding by a JSON schema: each step allows only tokens that can still lead to a match.

llguidance (https://github.com/guidance-ai/llguidance) computes the token masks; this module turns them into tensors.
"""

import json
from typing import Any

import llguidance.hf
import numpy as np
import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor
from transformers import PreTrainedTokenizerBase

# With free whitespace a model that has not learned when to stop would emit whitespace without end.
COMPACT = {"whitespace_flexible": False}
WORD_BITS = 32


class SchemaError(ValueError):
    """The JSON schema can't be followed; the sentence says why."""


def constraint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> LLTokenizer:
    """Return llguidance's view of a tokenizer. It takes 0.1 s or more to build: reuse it.

    Raises SchemaError for a tokenizer that is not a fast one.
    """
    try:
        return llguidance.hf.from_tokenizer(tokenizer)
    except (TypeError, ValueError) as error:
        raise SchemaError(f"this model's tokenizer can't keep to a JSON schema: {error}") from error


class JsonConstraint:
    """The state of one answer that must match a JSON schema."""

    def __init__(self, schema: dict[str, Any], tokenizer: LLTokenizer) -> None:
        """Compile the schema; raises SchemaError if it can't be followed."""
        try:
            grammar = LLMatcher.grammar_from_json_schema(json.dumps(schema), overrides=COMPACT)
        except ValueError as error:
            raise SchemaError(f"the JSON schema can't be followed: {error}") from error
        if problem := LLMatcher.validate_grammar(grammar, tokenizer):
            raise SchemaError(f"the JSON schema can't be followed: {str(problem).splitlines()[0]}")
        self._matcher = LLMatcher(tokenizer, grammar)
        self._words = np.zeros(-(-tokenizer.vocab_size // WORD_BITS), dtype=np.int32)

    def allowed(self, vocabulary: int) -> Tensor:
        """Return the allowed next tokens as bools `[vocabulary]` on the CPU; after a full match only the end token."""
        self._matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        bits = np.unpackbits(self._words.view(np.uint8), bitorder="little")[:vocabulary].astype(bool)
        # A model's head may be wider than its tokenizer.
        return torch.from_numpy(np.pad(bits, (0, vocabulary - len(bits))))

    def accept(self, token_id: int) -> None:
        """Advance the state by an allowed token."""
        self._matcher.consume_token(token_id)
