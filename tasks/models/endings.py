"""Which tokens end an answer: one set for training, evaluation, serving and exports, so that all of them agree.

A base may end texts with one token (`<|endoftext|>`) and its chat template turns with another (`<|im_end|>`).
"""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tasks.data.template import turn_end_ids
from tasks.models.loading import end_token_ids

GENERATION_CONFIG = "generation_config.json"


def answer_end_ids(folder: Path, tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the ids that end an answer of the model in `folder`, first the one that its template ends a turn with.

    They come from the template itself, `generation_config.json`, `config.json` and the tokenizer. Raises `WeightsError`
    for a damaged file.
    """
    return list(dict.fromkeys([*turn_end_ids(tokenizer), *sorted(end_token_ids(folder, tokenizer))]))


def write_end_ids(folder: Path, ids: list[int]) -> None:
    """Name the ids in the folder's `generation_config.json`, where transformers, vLLM and others look for them."""
    if not ids:
        return
    path = folder / GENERATION_CONFIG
    settings = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(settings | {"eos_token_id": ids}, indent=2) + "\n", encoding="utf-8")
