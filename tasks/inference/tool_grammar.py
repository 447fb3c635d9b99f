"""Calls of functions that keep to their schemas: a grammar for each format that models write calls in.

llguidance's Lark (https://github.com/guidance-ai/llguidance, docs/syntax.md) mixes text, special tokens and JSON
schemas. Where calls are required the grammar has nothing else; else it lets any text pass, and takes over once the
format's marker has begun a call.
"""

# ruff: noqa: RUF001 - DeepSeek's tokens have another bar

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llguidance import LLMatcher, LLTokenizer

from configs.tool_formats import FALLBACK, FORMATS, HARMONY, REASONING, CallFormat
from tasks.inference.constraint import GrammarConstraint, prepared_for
from tasks.inference.json_schema import SchemaError

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_NO_ARGUMENTS = {"type": "object", "properties": {}, "additionalProperties": False}
_JSON_STYLE = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""As the templates' `tojson` writes it."""
_OPEN = ("allOf", "anyOf", "oneOf", "$ref", "patternProperties", "if", "not", "minProperties")
_NOT_IN_TEXT = ("pattern", "format")
_ANY = "/(.|\\n)*/"


class CallsError(ValueError):
    """Calls can't be held to a schema; the sentence says of which function and why."""


@dataclass(frozen=True, slots=True)
class Thoughts:
    """How a model's reasoning begins, and whether the prompt has begun it."""

    opening: str
    begun: bool


@dataclass(frozen=True, slots=True)
class CallRules:
    """What an answer's calls keep to."""

    functions: Mapping[str, Mapping[str, Any] | None]
    """The JSON schema of the arguments of each function that may be called; None: it takes none."""
    required: bool
    """The answer is calls; else text may come before them, or alone."""
    parallel: bool
    """More than one call may come."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How a format lays out calls: `before (call (between call)*) after`; NAME stands for the function's."""

    head: str
    tail: str
    before: str = ""
    between: str = ""
    after: str = ""
    arguments: str = "json"


def _json_layout(before: str = "", after: str = "", arguments: str = "arguments", between: str = ", ") -> _Layout:
    return _Layout(f'{{"name": "NAME", "{arguments}": ', "}", before, between, after)


_LAYOUTS = {
    FALLBACK: _Layout('<tool_call>\n{"name": "NAME", "arguments": ', "}\n</tool_call>", between="\n"),
    "qwen3_coder": _Layout(
        "<tool_call>\n<function=NAME>\n", "</function>\n</tool_call>", between="\n", arguments="parameters"
    ),
    "glm": _Layout("<tool_call>NAME\n", "</tool_call>", between="\n", arguments="pairs"),
    "llama_json": _json_layout(arguments="parameters", between="\n"),
    "pythonic": _Layout("NAME(", ")", "[", ", ", "]", "python"),
    "lfm2": _Layout("NAME(", ")", "<|tool_call_start|>[", ", ", "]<|tool_call_end|>", "python"),
    "mistral": _json_layout("[TOOL_CALLS] [", "]"),
    "mistral_named": _Layout("[TOOL_CALLS]NAME[ARGS]", ""),
    "granite": _json_layout("<|tool_call|>[", "]"),
    "phi4": _json_layout("<|tool_call|>[", "]<|/tool_call|>"),
    "deepseek": _Layout(
        "<｜tool▁call▁begin｜>NAME<｜tool▁sep｜>",
        "<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        after="<｜tool▁calls▁end｜>",
    ),
    HARMONY: _Layout("<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>", ""),
}
_BARE = {"llama_json": "{", "pythonic": "["}
"""Formats whose calls nothing but their first character marks, at the beginning of an answer."""
_XML = {
    "parameters": ("<parameter=NAME>\n", "\n</parameter>\n"),
    "pairs": ("<arg_key>NAME</arg_key>\n<arg_value>", "</arg_value>\n"),
}


class CallConstraint(GrammarConstraint):
    """The state of one answer whose calls keep to their schemas."""

    def __init__(
        self,
        tool_format: str,
        rules: CallRules,
        thoughts: Thoughts | None,
        tokenizer: LLTokenizer,
        token_id: Callable[[str], int | None],
    ) -> None:
        """Compile the grammar; `token_id` returns the id of a text that is one token.

        Raises CallsError if a function's schema can't be followed, or not in this format.
        """
        prepared = CallRules(
            {name: _prepared(name, schema, tokenizer) for name, schema in rules.functions.items()},
            rules.required,
            rules.parallel,
        )
        grammar = _Grammar(tool_format, prepared, thoughts, tokenizer, token_id).text()
        if problem := LLMatcher.validate_grammar(grammar, tokenizer):
            raise CallsError(
                f"calls of {', '.join(rules.functions)} can't be held to their schemas: {_first_line(problem)}"
            )
        super().__init__(grammar, tokenizer)


def _prepared(name: str, schema: Mapping[str, Any] | None, tokenizer: LLTokenizer) -> Mapping[str, Any] | None:
    """Return a function's schema as the engine can keep to it. It does not look for arrays that repeat an item."""
    if schema is None:
        return None
    try:
        found = prepared_for(dict(schema), tokenizer).schema
    except SchemaError as error:
        raise CallsError(f"calls of {name} can't be held to their schema: {error}") from error
    return found if isinstance(found, Mapping) else ANY_OBJECT


class _Grammar:
    """Writes the grammar of an answer."""

    def __init__(
        self,
        tool_format: str,
        rules: CallRules,
        thoughts: Thoughts | None,
        tokenizer: LLTokenizer,
        token_id: Callable[[str], int | None],
    ) -> None:
        self._format = FORMATS.get(tool_format, FORMATS[FALLBACK])
        self._layout = _LAYOUTS[self._format.name]
        self._rules, self._thoughts = rules, thoughts
        self._ids = _special_ids(self._format, thoughts, tokenizer, token_id)
        self._lines = [f"TEXT: {_ANY}"]

    def text(self) -> str:
        """Return the grammar in llguidance's Lark."""
        calls = self._written(self._layout.before, self._calls(), self._layout.after)
        thoughts = self._reasoning()
        if self._rules.required:
            start = f"{thoughts} {calls}"
        elif self._format.name == HARMONY:
            start = f"{thoughts} ({self._literal('<|channel|>final<|message|>')} TEXT | {calls})"
        elif (sign := _BARE.get(self._format.name)) is not None:
            self._lines.append(f"WORDS: /\\s*[^\\s\\{sign}](.|\\n)*/")
            start = f"{thoughts} (WORDS? | {calls})"
        elif self._rules.parallel:
            start = f"{thoughts} ({self._triggered()})* TEXT"
        else:
            start = f"{thoughts} (TEXT | {self._triggered()})"
        return "\n".join(["%llguidance {}", f"start: {start}", *self._lines])

    def _calls(self) -> str:
        """Return the calls between what a format puts before and after them."""
        one = self._one_call()
        again = f"({self._written(self._layout.between, one)})*"
        can_repeat = self._rules.parallel and self._format.name != HARMONY
        return f"{one} {again}" if can_repeat else one

    def _one_call(self, *, after: str = "") -> str:
        """Return a rule for a call of any function, whose text begins after `after`."""
        calls = []
        for name, schema in self._rules.functions.items():
            head = self._layout.head.replace("NAME", name).removeprefix(after)
            calls.append(self._written(head, self._arguments(name, schema), self._layout.tail))
        return self._rule("call", " | ".join(calls))

    def _triggered(self) -> str:
        """Return text that a marker ends, and the calls that go on from there."""
        before = self._layout.before or self._layout.head
        trigger = next(opening for opening in self._format.openings if before.startswith(opening))
        begun = self._up_to(trigger)
        if self._layout.before:
            rest = self._written(self._layout.before.removeprefix(trigger), self._calls(), self._layout.after)
        else:
            rest = self._one_call(after=trigger)
        return f"{begun} {rest}"

    def _reasoning(self) -> str:
        """Return what may come before everything else."""
        if self._format.name == HARMONY:
            channel = f'{self._literal("<|channel|>")} ("analysis" | "commentary") {self._literal("<|message|>")}'
            return f"({channel} {self._up_to('<|end|>')} {self._literal('<|start|>assistant')})*"
        if self._thoughts is None:
            return ""
        ended = f"{self._up_to(REASONING[self._thoughts.opening])} /\\s{{0,4}}/"
        return ended if self._thoughts.begun else f"({self._literal(self._thoughts.opening)} {ended})?"

    def _up_to(self, marker: str) -> str:
        """Return a rule for any text up to a marker, and that."""
        if (token := self._ids.get(marker)) is not None:
            return self._rule("upto", f"TEXT <[{token}]>")
        return self._rule("upto", f"TEXT {json.dumps(marker, ensure_ascii=False)}", options="[lazy]")

    def _arguments(self, name: str, schema: Mapping[str, Any] | None) -> str:
        schema = _as_object(_NO_ARGUMENTS if schema is None else schema)
        kind = self._layout.arguments
        if kind == "json":
            return self._json(schema)
        if schema.get("type") != "object" or any(word in schema for word in _OPEN):
            raise CallsError(
                f"calls of {name} can't be held to their schema in this model's format of calls, which writes "
                "arguments one by one: the schema must be an object with properties"
            )
        properties = schema.get("properties") or {}
        required = [key for key in properties if key in schema.get("required", ())]
        optional = [key for key in properties if key not in required]
        if kind == "python":
            return self._keywords(schema, required, optional)
        parts = [self._element(kind, key, schema) for key in required]
        parts += [f"({self._element(kind, key, schema)})?" for key in optional]
        return " ".join(parts)

    def _keywords(self, schema: Mapping[str, Any], required: list[str], optional: list[str]) -> str:
        """Return the arguments of a call in Python's words, with commas between those that are there."""
        for key in (*required, *optional):
            if not key.isidentifier():
                raise CallsError(f"the argument {key!r} can't be written in this model's format of calls")
        written = {key: self._written(f"{key}=", self._value(key, schema)) for key in (*required, *optional)}
        if required:
            first = f" {self._literal(', ')} ".join(written[key] for key in required)
            return " ".join([first, *(f"({self._literal(', ')} {written[key]})?" for key in optional)])
        alternatives = [""]
        for place, key in enumerate(optional):
            rest = " ".join(f"({self._literal(', ')} {written[later]})?" for later in optional[place + 1 :])
            alternatives.append(f"{written[key]} {rest}")
        return f"({' | '.join(alternatives[1:])})?" if optional else ""

    def _element(self, kind: str, key: str, schema: Mapping[str, Any]) -> str:
        opening, closing = _XML[kind]
        own = schema["properties"][key]
        opened = self._literal(opening.replace("NAME", key))
        if not isinstance(own, Mapping) or own.get("type") != "string":
            return f"{opened} {self._value(key, schema)} {self._literal(closing)}"
        if any(word in own for word in _NOT_IN_TEXT):
            raise CallsError(
                f"the argument {key!r} has a pattern or a format, which this model's format of calls can't be held to"
            )
        if (words := [own["const"]] if "const" in own else own.get("enum")) is not None:
            return f"{opened} ({' | '.join(self._literal(str(word)) for word in words)}) {self._literal(closing)}"
        if "minLength" in own or "maxLength" in own:
            size = f"{{{own.get('minLength', 0)},{own.get('maxLength', '')}}}"
            return f"{opened} /[^<]{size}/ {self._literal(closing)}"
        marker = closing.strip()
        return f"{opened} {self._up_to(marker)} {self._literal(closing.partition(marker)[2])}"

    def _value(self, key: str, schema: Mapping[str, Any]) -> str:
        own = schema["properties"][key]
        shared = {word: schema[word] for word in ("$defs", "definitions") if word in schema}
        return self._json({**own, **shared} if isinstance(own, Mapping) else {})

    def _json(self, schema: Mapping[str, Any]) -> str:
        return self._rule("json", f"%json {json.dumps({**schema, 'x-guidance': _JSON_STYLE})}")

    def _rule(self, name: str, body: str, options: str = "") -> str:
        numbered = f"{name}{len(self._lines)}"
        self._lines.append(f"{numbered}{options}: {body}")
        return numbered

    def _written(self, before: str, rule: str, after: str = "") -> str:
        return " ".join(filter(None, (self._literal(before), rule, self._literal(after))))

    def _literal(self, text: str) -> str:
        """Return a text as the grammar has it: special tokens by their ids."""
        if not text:
            return ""
        pieces = re.split(f"({'|'.join(map(re.escape, self._ids))})", text) if self._ids else [text]
        return " ".join(
            f"<[{self._ids[piece]}]>" if piece in self._ids else json.dumps(piece, ensure_ascii=False)
            for piece in pieces
            if piece
        )


def _special_ids(
    form: CallFormat, thoughts: Thoughts | None, tokenizer: LLTokenizer, token_id: Callable[[str], int | None]
) -> dict[str, int]:
    """Return those of a format's markers that no text spells, with their ids."""
    markers = [*form.markers]
    if thoughts is not None:
        markers += [thoughts.opening, REASONING[thoughts.opening]]
    found = {marker: token_id(marker) for marker in sorted(markers, key=len, reverse=True)}
    return {marker: id for marker, id in found.items() if id is not None and tokenizer.is_special_token(id)}


def _as_object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the schema, which is of an object where it does not say of what."""
    return {**schema, "type": "object"} if "type" not in schema and "$ref" not in schema else schema


def _first_line(text: str) -> str:
    return next(iter(text.strip().splitlines()), "")[:300]
