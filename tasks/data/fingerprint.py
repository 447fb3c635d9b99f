"""The fingerprint of a prepared data set: everything that decides its token ids, hashed."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from tasks.data.examples import Example

FORMAT_VERSION = 1
"""Raise it whenever rendering, tokenizing, splitting or the files on disk change, so that old caches are left alone."""


def dataset_fingerprint(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    max_seq_length: int,
    held_out_fraction: float,
) -> str:
    """Return 64 hex digits over the rows in their order, the tokenizer's content and the two numbers.

    The tokenizer counts by what it does (vocabulary, merges, special tokens, chat template), not by its path, so that
    the same tokenizer in two folders shares a cache.
    """
    digest = hashlib.sha256()
    settings = [FORMAT_VERSION, max_seq_length, held_out_fraction, _tokenizer_content(tokenizer)]
    digest.update(json.dumps(settings, sort_keys=True).encode("ascii"))
    for example in examples:
        digest.update(bytes.fromhex(example.content_hash))
    return digest.hexdigest()


def _tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "class": type(tokenizer).__name__,
        "chat_template": tokenizer.chat_template,
        "special_tokens": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
        "vocabulary": _fast_vocabulary(tokenizer) if tokenizer.is_fast else _saved_vocabulary(tokenizer),
    }


def _fast_vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    # These two are left behind by the latest call that padded or truncated; they say nothing of the tokenizer.
    return {name: value for name, value in content.items() if name not in {"padding", "truncation"}}


def _saved_vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(Path(name) for name in tokenizer.save_vocabulary(folder))
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
