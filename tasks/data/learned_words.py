"""Whether a chat template has written all that a conversation holds: what it drops can't be learned."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tasks.data.chat_template import ChatTemplate, Turn
from tasks.data.examples import DatasetError

_MARK = "[something else]"
_REASONING = "reasoning_content"
_REASONING_TAG = re.compile(r"</?think>")
_REMEDY = "choose a chat_template or a model that writes it, or leave it out"


def require_all_words(
    template: ChatTemplate, turns: list[Turn], tools: Any, text: str, answers: dict[int, str]
) -> None:
    """Raise DatasetError, naming the field, for what the template has left out of a conversation's `text`.

    `answers` has the text of each learned turn: its words, calls and reasoning must stand in there. Of the other turns
    nothing may be missing, but for reasoning: templates show it in the last turn only, as the model sees it later.
    """
    for place, turn in enumerate(turns):
        if place in answers:
            _require_in_answer(place, turn, answers[place])
        else:
            _require_in_text(template, turns, place, text)
    require_tools(template, turns, tools, text)


def require_tools(template: ChatTemplate, turns: list[Turn], tools: Any, text: str) -> None:
    """Raise DatasetError if the template has left the tools out of a conversation's `text`."""
    has_all_tools = all(_is_written(words, text) for tool in tools or () for words in _leaves(tool))
    if not has_all_tools and template.render(turns, with_tools=_other_tools(tools)) == text:
        raise DatasetError(f"the model's chat template leaves out tools; {_REMEDY}")


def _require_in_answer(place: int, turn: Turn, answer: str) -> None:
    for call in turn.get("tool_calls") or ():
        words = [call["function"]["name"], *_leaves(_parsed(call["function"]["arguments"]))]
        if not all(_is_written(word, answer) for word in words):
            raise DatasetError(f"the model's chat template leaves out messages[{place}].tool_calls; {_REMEDY}")
    if (reasoning := turn.get(_REASONING)) and not _has_words(reasoning, answer):
        raise DatasetError(
            f"the model's chat template leaves out messages[{place}].{_REASONING}; {_REMEDY}, or give the turn "
            "weight 0 if only the reasoning of the last turn is to be learned"
        )
    content = turn["content"] or ""
    # The tag may have been written before the answer: generation begins within reasoning.
    if not (_has_words(content, answer) or _has_words(content.lstrip().removeprefix("<think>"), answer)):
        raise DatasetError(
            f"the model's chat template changes messages[{place}].content or leaves part of it out (as some do with "
            "the reasoning of an earlier turn), so it can't be learned; give the turn weight 0, or choose another "
            "chat_template"
        )


def _require_in_text(
    template: ChatTemplate,
    turns: list[Turn],
    place: int,
    text: str,
    fields: tuple[str, ...] = ("content", "tool_calls"),
) -> None:
    turn = turns[place]
    for field in fields:
        value = turn.get(field)
        if not value or (field == "content" and value.strip() in text):
            continue
        other = _other_calls(value) if field == "tool_calls" else _MARK
        changed = [*turns[:place], turn | {field: other}, *turns[place + 1 :]]
        try:
            is_left_out = template.render(changed) == text
        except DatasetError:
            is_left_out = False
        if is_left_out:
            raise DatasetError(f"the model's chat template leaves out messages[{place}].{field}; {_REMEDY}")


def require_calls(template: ChatTemplate, turns: list[Turn], text: str) -> None:
    """Raise DatasetError if the template has left the calls of a turn out of a conversation's `text`."""
    for place, turn in enumerate(turns):
        if turn.get("tool_calls"):
            _require_in_text(template, turns, place, text, ("tool_calls",))


def _other_calls(calls: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [call | {"function": call["function"] | {"name": _MARK}} for call in calls]


def _other_tools(tools: Any) -> list[Any]:
    return [tool | {"function": (tool.get("function") or {}) | {"name": _MARK}, "name": _MARK} for tool in tools]


def _has_words(words: str, text: str) -> bool:
    """Whether the words stand in the text; templates may trim them, and part reasoning from what follows."""
    return words.strip() in text or _spaced(words) in _spaced(text)


def _spaced(text: str) -> str:
    return " ".join(_REASONING_TAG.sub(r" \g<0> ", text).split())


def _is_written(word: str, text: str) -> bool:
    """Whether a text of a JSON value stands in the rendering, as it is or as JSON writes it."""
    return word in text or json.dumps(word, ensure_ascii=False)[1:-1] in text or json.dumps(word)[1:-1] in text


def _leaves(value: Any) -> Iterator[str]:
    """Yield the texts of a JSON value, names included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield name
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)


def _parsed(arguments: Any) -> Any:
    return json.loads(arguments) if isinstance(arguments, str) else arguments
