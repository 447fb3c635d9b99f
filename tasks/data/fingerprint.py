"""The fingerprints of a prepared data set: everything that decides its token ids, hashed."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from tasks.data.tokenizers import adds_eos, has_plain_format

FORMAT_VERSION = 1
"""Raise it whenever rendering, tokenizing or splitting change: a paused job must not go on with other token ids."""
CONVERSATION_VERSION = 2
"""The same for what only changes where a tokenizer's format is not plain (`has_plain_format`): jobs that were paused on
the others go on."""
WINDOWS_VERSION = 1
"""The same for what only changes rows that are read as several windows (`tasks.data.windows`)."""
CACHE_VERSION = 3
"""Raise it whenever the files of the token cache change, or what is refused, so that old ones are not read."""


TokenizerContent = str
"""See `tokenizer_content`."""


def dataset_fingerprint(
    hashes: NDArray[np.uint8],
    tokenizer: TokenizerContent,
    max_seq_length: int,
    held_out_fraction: float,
    held_out_hashes: NDArray[np.uint8] | None = None,
    windows: Sequence[str] = (),
) -> str:
    """Return 64 hex digits over the rows in their order, the tokenizer's content and the two numbers.

    `windows` says which rows are read as several windows, if any are.

    The tokenizer counts by what it does (vocabulary, merges, special tokens, chat template), not by its path.
    """
    settings = [_json(FORMAT_VERSION), _json(max_seq_length), _json(held_out_fraction), tokenizer]
    if windows:
        settings.append(_json(["windows", WINDOWS_VERSION, *windows]))
    digest = _digest_of(settings)
    digest.update(hashes.tobytes())
    if held_out_hashes is not None:
        digest.update(b"held out")
        digest.update(held_out_hashes.tobytes())
    return digest.hexdigest()


def tokens_fingerprint(hashes: NDArray[np.uint8], tokenizer: TokenizerContent) -> str:
    """Return 64 hex digits over what decides the full rows' token ids: the rows in their order, and the tokenizer.

    So the same tokenizer in two folders shares a cache, and so do all lengths and all splits.
    """
    digest = _digest_of([_json(FORMAT_VERSION), _json(CACHE_VERSION), tokenizer])
    digest.update(hashes.tobytes())
    return digest.hexdigest()


def split_fingerprint(hashes: NDArray[np.uint8], tokenizer: TokenizerContent, max_seq_length: int) -> str:
    """Return 64 hex digits over what decides the windows that long conversations are split into."""
    whole = tokens_fingerprint(hashes, tokenizer)
    return hashlib.sha256(json.dumps(["split", WINDOWS_VERSION, max_seq_length, whole]).encode("ascii")).hexdigest()


def tokenizer_content(tokenizer: PreTrainedTokenizerBase) -> TokenizerContent:
    """Return what a tokenizer does, as the JSON text of an object, equal for equal tokenizers.

    It takes a moment where the vocabulary is large; the latest one is remembered.
    """
    content = {
        "class": _json(type(tokenizer).__name__),
        "chat_template": _json(tokenizer.chat_template),
        "special_tokens": _json({name: str(token) for name, token in tokenizer.special_tokens_map.items()}),
        "vocabulary": _fast_vocabulary(tokenizer) if tokenizer.is_fast else _json(_saved_vocabulary(tokenizer)),
    }
    if not has_plain_format(tokenizer):
        content["format"] = _json(CONVERSATION_VERSION)
    if not adds_eos(tokenizer):
        content["adds_eos"] = "false"
    return f"{{{', '.join(f'{_json(name)}: {value}' for name, value in sorted(content.items()))}}}"


def _digest_of(settings: Sequence[str]) -> "hashlib._Hash":
    """Return the hash, still open, of a JSON list of these values, each a JSON text."""
    return hashlib.sha256(f"[{', '.join(settings)}]".encode("ascii"))


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _fast_vocabulary(tokenizer: PreTrainedTokenizerBase) -> str:
    return _canonical_vocabulary(tokenizer.backend_tokenizer.to_str())


@lru_cache(1)
def _canonical_vocabulary(written: str) -> str:
    """Return a tokenizer's core as JSON with sorted keys, which takes four times as long as writing it."""
    content: dict[str, Any] = json.loads(written)
    # These two are left behind by the latest call that padded or truncated; they say nothing of the tokenizer.
    return _json({name: value for name, value in content.items() if name not in {"padding", "truncation"}})


def _saved_vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(Path(name) for name in tokenizer.save_vocabulary(folder))
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
