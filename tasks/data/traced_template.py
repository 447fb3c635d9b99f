"""Renders a chat template with texts that note what is asked about them, as transformers renders it with strings."""

import functools
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError, nodes, pass_eval_context
from jinja2.compiler import CodeGenerator, Frame
from jinja2.ext import Extension, loopcontrols
from jinja2.nativetypes import NativeCodeGenerator
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers.utils.chat_template_utils import (
    _alias_reasoning_fields,
    _compile_jinja_template,
    render_jinja_template,
)

from tasks.data.trace import Trace
from tasks.data.traced_text import Traced, Untraceable

_METHODS = frozenset({"startswith", "endswith", "split", "replace", "strip", "lstrip", "rstrip"})
_FILTERS: dict[str, Callable[..., Any]] = {
    "trim": Traced.strip,
    "length": Traced.length,
    "count": Traced.length,
    "tojson": Traced.to_json,
    "string": Traced.printed,
    "lower": Traced.lower,
    "safe": lambda value: value,
    "replace": Traced.replace,
    "default": lambda value, default="", boolean=False: value if not boolean or value else default,
}
_FILTERS["d"] = _FILTERS["default"]
_ITERATING = frozenset({"selectattr", "rejectattr", "list"})
"""Filters that only take the items of a value."""
_NUMBERS = (int, float)
_TESTS: dict[str, Callable[[type], bool]] = {
    "string": lambda kind: kind is str,
    "mapping": lambda kind: kind is dict,
    "none": lambda kind: kind is type(None),
    "number": lambda kind: kind in _NUMBERS or kind is bool,
    "boolean": lambda kind: kind is bool,
    "integer": lambda kind: kind is int,
    "float": lambda kind: kind is float,
    "iterable": lambda kind: kind in (str, dict, list),
    "sequence": lambda kind: kind in (str, dict, list),
    "defined": lambda _: True,
    "undefined": lambda _: False,
}
"""As jinja2's, of the types that JSON has."""


class _Refused(TemplateError):
    """The template itself has refused the conversation, by `raise_exception`."""


class _Generator(NativeCodeGenerator):
    """Writes values out as they are, and joins them by the environment's own `concat`."""

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802 - jinja2's name
        self.write("concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class _Generation(Extension):
    """Notes what `{% generation %}` surrounds, where and as transformers does."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's name and type

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_noted"), [], [], body).set_lineno(line)

    @pass_eval_context
    def _noted(self, _: Any, caller: Callable[[], Any]) -> Any:
        text = caller()
        assert isinstance(self.environment, _Environment)
        self.environment.generated(text)
        return text


class _Environment(ImmutableSandboxedEnvironment):
    code_generator_class: type[CodeGenerator] = _Generator

    def __init__(self, model: ImmutableSandboxedEnvironment) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
        self.generated: Callable[[Any], None] = lambda _: None
        self.filters = {name: _traced(name, used, _FILTERS.get(name)) for name, used in model.filters.items()}
        self.filters["join"] = _joining(model.filters["join"], self.concat)
        self.tests = {name: _traced(name, used, _asked(name)) for name, used in model.tests.items()}
        self.globals.update(model.globals)
        self.globals["raise_exception"] = _refuse
        self.globals["strftime_now"] = self.filters["random"] = _vary

    @staticmethod
    def concat(parts: Iterable[Any]) -> Any:
        """Return a string, or a traced text if one is among the parts."""
        joined = list(parts)
        traced = next((part for part in joined if isinstance(part, Traced)), None)
        if traced is None:
            return "".join(map(str, joined))
        pieces: list[Any] = []
        for part in joined:
            pieces += part.printed().pieces if isinstance(part, Traced) else (str(part),)
        return traced.joined(pieces)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return what a template may know of a traced value."""
        return self._of_traced(obj, attribute) if isinstance(obj, Traced) else super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return what a template may know of a traced value."""
        return self._of_traced(obj, argument) if isinstance(obj, Traced) else super().getitem(obj, argument)

    def _of_traced(self, value: Traced, name: Any) -> Any:
        if value.is_text:
            return self._of_text(value, name)
        if not isinstance(name, str) or value.type() is not dict:
            value.fail(f"{name!r} of a value")
        if value.ask("has", name):
            return value.get(name)
        if name == "get":
            return value.get
        # A dictionary's other methods, and attributes of any object.
        return self.undefined(obj={}, name=name) if not hasattr({}, name) else value.fail(name)

    def _of_text(self, text: Traced, name: Any) -> Any:
        if name in _METHODS:
            return getattr(text, name)
        if name == 0:
            return text.character()
        if not isinstance(name, str) or hasattr(str, name):
            text.fail(f"{name!r} of a text")
        return self.undefined(obj="", name=name)


def _refuse(message: Any) -> None:
    raise _Refused(message if isinstance(message, str) else "")


def _vary(*_: Any) -> None:
    raise Untraceable("what is not the same each time")


def _asked(name: str) -> Callable[..., Any] | None:
    of_type = _TESTS.get(name)
    if of_type is not None:
        return lambda value: of_type(value.type())
    if name in {"eq", "==", "equalto"}:
        return lambda value, other: value == other
    return (lambda value, other: value != other) if name in {"ne", "!="} else None


def _traced(name: str, used: Any, on_traced: Callable[..., Any] | None) -> Any:
    """Return a filter or test for all values."""

    @functools.wraps(used)
    def wrapped(*arguments: Any, **options: Any) -> Any:
        found = [value for value in (*arguments, *options.values()) if isinstance(value, Traced)]
        if not found:
            return used(*arguments, **options)
        # Some of jinja2's take its environment or context first.
        first = next(place for place, value in enumerate(arguments) if isinstance(value, Traced))
        if name in _ITERATING and found[0].is_text and len(found) == 1:
            return used(*arguments, **options)
        is_first = first == 0 or _is_passed(used)
        if on_traced is None or not is_first or (len(found) > 1 and name not in {"default", "d", "eq", "ne"}):
            found[0].fail(name)
        return on_traced(*arguments[first:], **options)

    return wrapped


def _joining(used: Any, concat: Callable[[Iterable[Any]], Any]) -> Any:
    @functools.wraps(used)
    def join(context: Any, value: Any, d: str = "", attribute: Any = None) -> Any:
        items = list(value)
        if attribute is not None or not any(isinstance(item, Traced) for item in items):
            return used(context, items, d, attribute)
        return concat([part for item in items for part in (d, item)][1:])

    return join


def _is_passed(used: Any) -> bool:
    return getattr(used, "jinja_pass_arg", None) is not None


@lru_cache(32)
def _compiled(source: str) -> Any:
    return _Environment(_compile_jinja_template(source).environment).from_string(source)


def render_traced(
    trace: Trace,
    conversations: list[list[dict[str, Any]]],
    tools: Any,
    chat_template: str,
    *,
    return_assistant_tokens_mask: bool = False,
    **variables: Any,
) -> tuple[list[str], list[list[tuple[int, int]]]]:
    """Return what transformers' `render_jinja_template` does, with slots in it for the row's values.

    Raises jinja2's TemplateError if the template refuses the conversation, and Untraceable for whatever else it raises.
    """
    assert len(conversations) == 1
    blocks: list[str] = []
    generated: list[tuple[int, int]] = []

    def note(text: Any) -> None:
        start = len("".join(blocks))
        generated.append((start, start + len(trace.written(text))))

    try:
        template = _compiled(chat_template)
        template.environment.generated = note
        values = {
            "messages": trace.traced(_alias_reasoning_fields(conversations[0])),
            "tools": trace.traced(tools),
            "documents": None,
        }
        context = template.new_context(values | variables)
        for block in template.root_render_func(context):
            blocks.append(trace.written(block))
    except (_Refused, Untraceable):
        raise
    except Exception as error:
        # It may come from a traced value in a string's place.
        if _is_raised_for_real(error, trace.untraced(conversations), trace.untraced(tools), chat_template, variables):
            raise
        raise Untraceable(str(error)) from error
    return ["".join(blocks)], [generated if return_assistant_tokens_mask else []]


def _is_raised_for_real(error: Exception, conversations: Any, tools: Any, source: str, variables: Any) -> bool:
    """Whether the row's own values raise the same error."""
    try:
        render_jinja_template(conversations=conversations, tools=tools, chat_template=source, **variables)
    except Exception as other:  # noqa: BLE001 - templates raise what they like
        return type(other) is type(error) and str(other) == str(error)
    return False
