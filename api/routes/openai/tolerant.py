"""Requests under `/v1` hold what clients send: what has no effect is ignored and named, what would have is refused.

OpenAI's types, vLLM's and our own answers have fields that change nothing here. A field that nobody knows is ignored as
well, unless it looks like a misspelled one that matters: an answer must not be another one than was asked for.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

from fastapi import Response
from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from api.field_errors import shown
from configs.strict import StrictModel

IGNORED_HEADER = "x-ignored-parameters"
MOST_NAMED = 40
LONGEST_NAME = 100
MISSPELLED = 0.9
"""From which likeness on (`difflib`'s ratio) an unknown field is taken for a known one."""
HARMLESS = frozenset(
    {
        "cache_salt", "detokenize", "include_reasoning", "keep_alive", "metadata", "prediction", "priority",
        "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention", "reasoning_effort", "request_id",
        "safety_identifier", "service_tier", "skip_special_tokens", "spaces_between_special_tokens", "store", "user",
        "verbosity",
    }
)  # fmt: skip
"""Fields of other servers that change no answer of ours; named as ignored, however they are spelt."""


class TolerantModel(StrictModel):
    """Known fields keep to their types; null means left out; further fields are kept for `ignored_parameters`."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _null_is_left_out(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {name: value for name, value in values.items() if value is not None}


class TolerantRequest(TolerantModel):
    """A whole request: its texts are Unicode, and no further field of it would have made another answer."""

    @model_validator(mode="before")
    @classmethod
    def _unicode(cls, values: Any) -> Any:
        _require_unicode(values, "")
        return values

    @model_validator(mode="after")
    def _nothing_else_that_matters(self) -> Self:
        _refuse_what_matters(self)
        return self


Refusal = tuple[Callable[[Any], bool], str]
"""Whether a value changes nothing, and why any other is refused."""
_nothing: Callable[[Any], bool] = lambda value: value in ("", [], {}, False)  # noqa: E731 - a table's shorthand

REFUSED: Mapping[str, Refusal] = {
    "allowed_token_ids": (_nothing, "answers can't be held to a list of tokens; logit_bias makes tokens likelier"),
    "audio": (_nothing, "models here write text only"),
    "bad_words": (_nothing, "words can't be forbidden; logit_bias forbids tokens"),
    "chat_template": (_nothing, "the template belongs to the model; PATCH /api/models/{id} gives it another"),
    "documents": (_nothing, "documents belong into the messages"),
    "guided_choice": (_nothing, "use response_format with a JSON schema that has an enum"),
    "guided_grammar": (_nothing, "grammars are not supported; use response_format with a JSON schema"),
    "guided_json": (_nothing, "use response_format with a JSON schema"),
    "guided_regex": (_nothing, "use response_format with a JSON schema that has a pattern"),
    "include_stop_str_in_output": (_nothing, "an answer ends before a stop string"),
    "logits_processors": (_nothing, "logits processors are not supported"),
    "modalities": (lambda value: value in ([], ["text"]), 'models here write text only: ["text"] is accepted'),
    "prompt_embeds": (_nothing, "prompts are text or token ids"),
    "return_token_ids": (_nothing, "token ids are not returned; POST /tokenize has those of a text"),
    "return_tokens_as_token_ids": (_nothing, "tokens are returned as text and bytes"),
    "structured_outputs": (_nothing, "use response_format with a JSON schema"),
    "suffix": (_nothing, "models here continue a text, and fill no gap: only an empty suffix is accepted"),
    "truncate_prompt_tokens": (_nothing, "prompts are never cut"),
    "use_beam_search": (_nothing, "answers are sampled; beam search is not supported"),
    "web_search_options": (_nothing, "models here search nothing"),
}
"""Fields that would make another answer, and are not supported; see `best_of` for the one that depends on `n`."""


def _refuse_what_matters(body: BaseModel) -> None:
    """Raise an error of pydantic's, naming the field, for a further field of a request that can't be ignored."""
    known = [*type(body).model_fields, *REFUSED]
    for name, value in (body.model_extra or {}).items():
        if (refusal := REFUSED.get(name)) is not None:
            changes_nothing, reason = refusal
            if not changes_nothing(value):
                raise _wrong(name, f"{name} is {shown(value)}, which is not supported: {reason}")
        elif name not in HARMLESS and (likely := difflib.get_close_matches(name, known, 1, MISSPELLED)):
            raise _wrong(name, f"{name} is not a known field; did you mean {likely[0]}?")


def _wrong(param: str, said: str) -> PydanticCustomError:
    """Return an error of the whole request, as pydantic knows no further fields, that tells which one is wrong."""
    return PydanticCustomError("value_error", "{said}", {"said": said, "param": param})


def ignored_parameters(body: Any, place: str = "") -> list[str]:
    """Return the names of all further fields of a request and of what it holds, such as `messages.1.annotations`."""
    names: list[str] = []
    if isinstance(body, BaseModel):
        names += [
            f"{place}{name}" for name, value in (body.model_extra or {}).items() if not _says_nothing(name, value)
        ]
        for name in type(body).model_fields:
            names += ignored_parameters(getattr(body, name), f"{place}{name}.")
    elif isinstance(body, list | tuple):
        for index, one in enumerate(body):
            names += ignored_parameters(one, f"{place}{index}.")
    return names


def name_ignored(response: Response, body: BaseModel, further: Sequence[str] = ()) -> Response:
    """Add the header that names what of a request was ignored, if anything was; `further` is named as well."""
    names = [_header_text(name) for name in [*ignored_parameters(body), *further]]
    if names:
        shown = names if len(names) <= MOST_NAMED else [*names[:MOST_NAMED], f"and {len(names) - MOST_NAMED} more"]
        response.headers[IGNORED_HEADER] = ", ".join(shown)
    return response


def _require_unicode(value: Any, place: str) -> None:
    """Raise ValueError, naming the place, for half of a surrogate pair, which JSON's escapes can write."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{place} holds half of a surrogate pair: it must be Unicode") from error
    elif isinstance(value, dict):
        for name, own in value.items():
            _require_unicode(own, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list):
        for index, own in enumerate(value):
            _require_unicode(own, f"{place}.{index}")


def _says_nothing(name: str, value: Any) -> bool:
    refusal = REFUSED.get(name)
    return refusal is not None and refusal[0](value)


def _header_text(name: str) -> str:
    return name[:LONGEST_NAME].encode("ascii", "backslashreplace").decode().replace(",", "\\x2c").translate(_CONTROLS)


_CONTROLS = {code: f"\\x{code:02x}" for code in [*range(32), 127]}
