"""What is asked of a tokenizer before its rows are made."""

import json

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tasks.data.copying_template import only_copies

_ADDS_EOS = "llm_platform_add_eos"
"""A name among the tokenizer's settings that no other tool reads."""
_TWO_ROUNDS = [{"role": role, "content": role} for role in ("user", "assistant")] * 2


def marks_beginnings(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether a text is tokenized otherwise at the beginning than within another: with a space before it."""
    if not tokenizer.is_fast:
        return False
    backend = tokenizer.backend_tokenizer
    # What they are pickled as, JSON: that of the whole tokenizer has the vocabulary in it, and takes 300 times as long.
    steps = [json.loads(part.__getstate__()) for part in (backend.normalizer, backend.pre_tokenizer) if part]
    while steps:
        step = steps.pop()
        steps += step.get("normalizers", []) + step.get("pretokenizers", [])
        if step.get("type") == "Prepend" or step.get("add_prefix_space"):
            return True
        if step.get("type") == "Metaspace" and step.get("prepend_scheme", "always") != "never":
            return True
    return False


def text_begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether the tokenizer puts its begin-of-sequence token before a text by itself, as Llama's do."""
    return bool(tokenizer.bos_token) and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]


def adds_eos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether texts and answers get an end-of-sequence token where nothing else ends them."""
    return bool(tokenizer.init_kwargs.get(_ADDS_EOS, True))


def set_adds_eos(tokenizer: PreTrainedTokenizerBase, adds: bool) -> None:
    """Decide `adds_eos`; it is saved with the tokenizer."""
    tokenizer.init_kwargs[_ADDS_EOS] = adds


def has_plain_format(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Return whether turns are only put one after the other, each the same whatever follows; and so their tokens."""
    if marks_beginnings(tokenizer):
        return False
    template = tokenizer.chat_template
    if not template:
        return True
    if not (isinstance(template, str) and only_copies(template)):
        return False
    try:
        whole = tokenizer.apply_chat_template(_TWO_ROUNDS, tokenize=False)
        return str(whole).startswith(tokenizer.apply_chat_template(_TWO_ROUNDS[:2], tokenize=False))
    except (TemplateError, TypeError, ValueError):
        return False
