"""Gives a tokenizer the chat template that a job or a model was told to use: from then on it has no other.

What decides how conversations are written is one text in the tokenizer, which is saved with the model: every tool that
reads a model folder writes the same. So arguments of the template become defaults within it.
"""

import json
import re
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, meta
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import _compile_jinja_template

import configs.chat_templates
from configs.chat_format import CHAT_TEMPLATE_FILE, ChatFormat
from tasks.data.examples import DatasetError, Example, Message
from tasks.data.template import Renderer
from tasks.data.tokenizers import text_begins_with_bos

PLAIN = "plain"
"""The template for conversations where a model has none: it needs no token but the end of sequence."""
_TOKENS = {
    "chatml": ("<|im_start|>", "<|im_end|>"),
    "llama-3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "gemma": ("<start_of_turn>", "<end_of_turn>"),
}
"""Tokens that a template's turns are made of: as several ones each, they would be learned as words."""
_KINDS = (
    (Message("user", "What is it?"), Message("assistant", "A lamp.")),
    (Message("system", "Be brief."), Message("user", "What is it?"), Message("assistant", "A lamp.")),
    (Message("user", "What is it?"), Message("assistant", "A lamp.")) * 32,
)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_GIVEN = frozenset(
    ["messages", "tools", "documents", "add_generation_prompt", "continue_final_message", "begins_with_bos"]
)
_OF_THE_TOKENIZER = re.compile(r".*_tokens?")
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")


def choose_format(tokenizer: PreTrainedTokenizerBase, chosen: ChatFormat) -> None:
    """Make `chosen` the tokenizer's own chat format.

    Raises DatasetError for a template that does not compile, a name that nobody has, tokens that the tokenizer lacks,
    and arguments that the template does not read.
    """
    if chosen.chat_template is not None:
        tokenizer.chat_template = _template(tokenizer, chosen.chat_template)
    if chosen.chat_template_kwargs:
        tokenizer.chat_template = _with_arguments(tokenizer.chat_template, chosen.chat_template_kwargs)


def saved_template(folder: Path) -> str | None:
    """Return the chat template that `save_template`, or a tokenizer, has saved in a folder; None if there is none."""
    file = folder / CHAT_TEMPLATE_FILE
    return file.read_text(encoding="utf-8") if file.is_file() else None


def save_template(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer's chat template, if it has one, for `saved_template`."""
    if isinstance(tokenizer.chat_template, str):
        (folder / CHAT_TEMPLATE_FILE).write_text(tokenizer.chat_template, encoding="utf-8")


def use_template(tokenizer: PreTrainedTokenizerBase, saved: str) -> None:
    """Give the tokenizer a saved template, unless that is its own, which may have others beside it."""
    own = tokenizer.chat_template
    if saved not in (own.values() if isinstance(own, dict) else (own,)):
        tokenizer.chat_template = saved


def try_format(tokenizer: PreTrainedTokenizerBase) -> None:
    """Write conversations of several kinds. Raises DatasetError if none can be written so that its answer is learned.

    Whoever calls it bounds the time and the memory that a template can take.
    """
    renderer, problems = Renderer(tokenizer), list[DatasetError]()
    for turns in _KINDS:
        try:
            renderer.render(Example(turns))
            renderer.prompt(turns[:-1])
        except DatasetError as error:
            problems.append(error)
    if len(problems) == len(_KINDS):
        raise problems[0]


@cache
def named_templates() -> dict[str, str]:
    """Return the platform's templates by their names. Those texts never change: paused jobs go on with them."""
    folder = Path(configs.chat_templates.__path__[0])
    return {file.stem: file.read_text(encoding="utf-8").rstrip("\n") for file in sorted(folder.glob("*.jinja"))}


def _template(tokenizer: PreTrainedTokenizerBase, wanted: str) -> str:
    if _NAME.fullmatch(wanted) is None:
        _variables(wanted)
        return wanted
    own = tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else {}
    if wanted in own:
        return str(own[wanted])
    ours = named_templates()
    if wanted not in ours:
        names = ", ".join([*ours, *sorted(own)])
        raise DatasetError(f"there is no chat_template {wanted!r}; give a template's text, or one of the names {names}")
    known = tokenizer.get_vocab()
    missing = [token for token in _TOKENS.get(wanted, ()) if token not in known]
    if missing:
        raise DatasetError(
            f"chat_template {wanted!r} writes {' and '.join(missing)}, which the model's tokenizer does not have; "
            f"choose {PLAIN!r}, which needs no such token"
        )
    if "eos_token" in ours[wanted] and tokenizer.eos_token is None:
        raise DatasetError(
            f"chat_template {wanted!r} ends answers with the end-of-sequence token, and the model's tokenizer has none"
        )
    if "begins_with_bos" in ours[wanted]:
        return _default("begins_with_bos", text_begins_with_bos(tokenizer)) + ours[wanted]
    return ours[wanted]


def _with_arguments(template: str | dict[str, str] | None, arguments: dict[str, Any]) -> str | dict[str, str]:
    if not template:
        raise DatasetError("chat_template_kwargs are for a chat template, which the model does not have; choose one")
    texts = template if isinstance(template, dict) else {"": template}
    read = frozenset[str]().union(*map(_arguments, texts.values()))
    if unknown := [name for name in arguments if name not in read]:
        accepted = f"it reads {', '.join(sorted(read))}" if read else "it reads none"
        raise DatasetError(f"the chat template reads no argument {', '.join(map(repr, unknown))}; {accepted}")
    defaults = "".join(_default(name, value) for name, value in sorted(arguments.items()))
    changed = {name: defaults + text for name, text in texts.items()}
    return changed if isinstance(template, dict) else changed[""]


def _default(name: str, value: Any) -> str:
    # The end of line belongs to the last tag: what follows stands at the beginning of a line, as it did.
    return f"{{%- if {name} is not defined -%}}{{%- set {name} = {_literal(value)} -%}}{{%- endif %}}\n"


def _literal(value: Any) -> str:
    """Return a JSON value as Jinja writes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(str(key))}: {_literal(own)}" for key, own in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    # Jinja reads the escapes of JSON, but not a character beyond the first plane as two of them.
    return json.dumps(value, ensure_ascii=False)


def _arguments(template: str) -> frozenset[str]:
    """Return what a template reads and is not given by the platform."""
    return frozenset(
        name
        for name in _variables(template)
        if name not in _GIVEN and _OF_THE_TOKENIZER.fullmatch(name) is None and _IDENTIFIER.fullmatch(name)
    )


@lru_cache(64)
def _variables(template: str) -> frozenset[str]:
    try:
        environment = _compile_jinja_template(template).environment
        return frozenset(meta.find_undeclared_variables(environment.parse(template)) - environment.globals.keys())
    except (TemplateError, RecursionError, MemoryError, SyntaxError, ValueError) as error:
        raise DatasetError(f"chat_template can't be read as a Jinja template: {error}") from error
