"""Texts of a row as they pass through a chat template: what is done to them, and what is asked about them.

A template is rendered once with such texts in place of the row's own. What comes out holds for every row whose texts
answer the same questions in the same way; see `tasks.data.patterns`.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, NoReturn

from transformers.utils.chat_template_utils import _compile_jinja_template

_TO_JSON = _compile_jinja_template("").environment.filters["tojson"]
"""As transformers' templates know it."""

Kind = Literal["text", "call", "arguments", "tools"]
"""A content or its like; a name or an argument that is a text; other arguments; a tool."""
Step = tuple[str, Any]


class Untraceable(Exception):
    """The template does with a text what can't be told of another text. `kind` is the text's, if it is only one."""

    def __init__(self, what: str, kind: Kind | None = None) -> None:
        super().__init__(what)
        self.kind = kind


class Slot(NamedTuple):
    """A value of the row, and what the template does to it, step by step."""

    leaf: int
    """Its place among the row's values."""
    is_text: bool
    steps: tuple[Step, ...] = ()

    def of(self, leaves: Sequence[Any]) -> Any:
        """Return what becomes of it in a row with these values."""
        value = leaves[self.leaf]
        for name, argument in self.steps:
            value = _STEPS[name](value, argument)
        return value


Pieces = tuple[str | Slot, ...]
_CHARACTER: Step = ("character", None)
"""A step that can't be taken: nothing is known of it."""
_LOWER: Step = ("lower", None)
_ONLY_ASKED = frozenset({_CHARACTER, _LOWER})
"""Steps after which a text is not the row's any more: a template may ask about it, and not print it."""


def _as_json_text(value: str, _: Any) -> str:
    return json.dumps(value, ensure_ascii=False)[1:-1]


_STEPS: dict[str, Any] = {
    "strip": str.strip,
    "lstrip": str.lstrip,
    "rstrip": str.rstrip,
    "tojson": lambda value, options: _TO_JSON(value, **dict(options)),
    "within json": _as_json_text,
    "lower": lambda value, _: value.lower(),
    "str": lambda value, _: str(value),
    "get": lambda value, key: value[key],
}
_QUESTIONS: dict[str, Any] = {
    "contains": lambda value, other: other in value,
    "startswith": str.startswith,
    "endswith": str.endswith,
    "equals": lambda value, other: type(value) is type(other) and value == other,
    "is true": lambda value, _: bool(value),
    "length": lambda value, _: len(value),
    "type": lambda value, _: type(value),
    "has": lambda value, key: type(value) is dict and key in value,
    "strips to nothing": lambda value, characters: not value.strip(characters),
    "strips to itself": lambda value, characters: value.strip(characters) == value,
}


_OF_TWO = frozenset({"is", "is within", "splits"})
"""Questions about a text and others, whose pieces are the argument."""


class Question(NamedTuple):
    """What a template has asked about a text; `argument` is its constant."""

    pieces: Pieces
    name: str
    argument: Any

    def answer(self, leaves: Sequence[Any]) -> Any:
        """Return the answer for a row with these values."""
        value = value_of(self.pieces, leaves)
        if self.name == "is":
            return bool(value == value_of(self.argument, leaves))
        if self.name == "is within":
            return value.strip() in value_of(self.argument, leaves)
        if self.name == "splits":
            separator, parts = self.argument
            return bool(value.split(separator) == [value_of(part, leaves) for part in parts])
        return _QUESTIONS[self.name](value, self.argument)


Check = Callable[[Sequence[Any]], bool]
"""Whether a row with these values answers a question as the one that was traced."""


def check_of(question: Question, answer: Any) -> Check:
    """Return the check for this answer, quick where it is about a value as the row has it."""
    pieces, name, argument = question
    slot = pieces[0]
    if len(pieces) > 1 or not isinstance(slot, Slot) or slot.steps or name in _OF_TWO:
        return lambda leaves: bool(question.answer(leaves) == answer)
    leaf, ask = slot.leaf, _QUESTIONS[name]
    return lambda leaves: bool(ask(leaves[leaf], argument) == answer)


def value_of(pieces: Pieces, leaves: Sequence[Any]) -> Any:
    """Return what stands there in a row with these values: a text, or the JSON value of a single slot."""
    if len(pieces) == 1 and isinstance(slot := pieces[0], Slot):
        return slot.of(leaves)
    return "".join([piece if isinstance(piece, str) else piece.of(leaves) for piece in pieces])


class Traced:
    """Stands in for a row's text, or for a JSON value of it, within a template.

    It is no string on purpose: whatever a template does to it that is not defined here raises.
    """

    __slots__ = ("_trace", "pieces")

    def __init__(self, trace: "Answers", pieces: Pieces) -> None:
        self._trace = trace
        self.pieces = pieces

    @property
    def is_text(self) -> bool:
        """Whether it is a text in all rows of the shape."""
        slot = self.pieces[0] if len(self.pieces) == 1 else ""
        return isinstance(slot, str) or slot.is_text

    def ask(self, name: str, argument: Any = None) -> Any:
        """Return the answer for the row at hand; other rows must have the same."""
        return self._trace.answer(Question(self.pieces, name, argument))

    def fail(self, what: str) -> NoReturn:
        """Give up."""
        raise Untraceable(what, self._kind())

    def type(self) -> type:
        """Its type, the same in all rows."""
        found: type = str if self.is_text else self.ask("type")
        return found

    def joined(self, pieces: Iterable[str | Slot]) -> "Traced":
        """Return these pieces as one text."""
        return Traced(self._trace, tuple(piece for piece in pieces if piece != ""))

    def _kind(self) -> Kind | None:
        kinds = {self._trace.kinds[piece.leaf] for piece in self.pieces if isinstance(piece, Slot)}
        return kinds.pop() if len(kinds) == 1 else None

    def _text(self) -> Pieces:
        return self.pieces if self.is_text else self.fail("a value as a text")

    # What templates write as methods.

    def startswith(self, beginning: str) -> Any:
        """As of a string."""
        return self._asked_as_text("startswith", beginning)

    def endswith(self, end: str) -> Any:
        """As of a string."""
        return self._asked_as_text("endswith", end)

    def split(self, separator: str) -> list["Traced"]:
        """As of a string that holds the separator only where the template has written it."""
        if not (isinstance(separator, str) and separator):
            self.fail("split")
        parts: list[list[str | Slot]] = [[]]
        for piece in self._text():
            fixed = piece.split(separator) if isinstance(piece, str) else [piece]
            parts[-1].append(fixed[0])
            parts += [[part] for part in fixed[1:]]
        split = [self.joined(part) for part in parts]
        if len(split) == 1:
            return [self] if not self.ask("contains", separator) else self.fail("split")
        if not self.ask("splits", (separator, tuple(part.pieces for part in split))):
            self.fail("split")
        return split

    def replace(self, old: str, new: str) -> "Traced":
        """As of a string that does not hold `old`."""
        if not (isinstance(old, str) and isinstance(new, str)) or self._asked_as_text("contains", old):
            self.fail("replace")
        return self

    def strip(self, characters: str | None = None) -> "Traced":
        """As of a string."""
        return self.lstrip(characters).rstrip(characters) if len(self.pieces) > 1 else self._bare("strip", characters)

    def lstrip(self, characters: str | None = None) -> "Traced":
        """As of a string."""
        return self._bare("lstrip", characters)

    def rstrip(self, characters: str | None = None) -> "Traced":
        """As of a string."""
        return self._bare("rstrip", characters)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dictionary."""
        if not isinstance(key, str) or self.is_text:
            self.fail("get")
        if not self.ask("has", key):
            return default
        slot = self._slot()
        inner = Slot(slot.leaf, False, (*slot.steps, ("get", key)))
        if Traced(self._trace, (inner,)).type() is str:
            inner = inner._replace(is_text=True)
        return Traced(self._trace, (inner,))

    # What filters ask for.

    def length(self) -> int:
        """Its length, the same in all rows."""
        return int(self.ask("length"))

    def to_json(self, **options: Any) -> "Traced":
        """Return its JSON text."""
        slot = self._slot()
        step = ("tojson", tuple(sorted(options.items())))
        return Traced(self._trace, (Slot(slot.leaf, True, (*slot.steps, step)),))

    def lower(self) -> "Traced":
        """Return it in small letters."""
        slot = self._slot()
        if not self.is_text:
            self.fail("lower")
        return Traced(self._trace, (Slot(slot.leaf, True, (*slot.steps, _LOWER)),))

    def character(self) -> "Traced":
        """Return any of its characters, of which nothing is known but that it is one."""
        slot = self._slot()
        if not (self.is_text and self.ask("is true")):
            self.fail("a character")
        return Traced(self._trace, (Slot(slot.leaf, True, (*slot.steps, _CHARACTER)),))

    def printed(self) -> "Traced":
        """Return it as a template prints it."""
        if any(isinstance(piece, Slot) and not _ONLY_ASKED.isdisjoint(piece.steps) for piece in self.pieces):
            self.fail("what has lost something of the text")
        if self.is_text:
            return self
        slot = self._slot()
        if self.type() not in (int, float, bool):
            self.fail("print")
        return Traced(self._trace, (Slot(slot.leaf, True, (*slot.steps, ("str", None))),))

    def _slot(self) -> Slot:
        slot = self.pieces[0]
        return slot if len(self.pieces) == 1 and isinstance(slot, Slot) else self.fail("a joined text as a value")

    def _asked_as_text(self, name: str, argument: Any) -> bool:
        if not isinstance(argument, str):
            self.fail(name)
        self._text()
        return bool(self.ask(name, argument))

    def _bare(self, way: str, characters: str | None) -> "Traced":
        """Return it without the characters at its beginning or end."""
        pieces = list(self._text())
        place = -1 if way == "rstrip" else 0
        while pieces and isinstance(piece := pieces[place], str):
            if stripped := getattr(piece, way)(characters):
                pieces[place] = stripped
                return Traced(self._trace, tuple(pieces))
            del pieces[place]
        if not pieces:
            self.fail(way)
        slot = pieces[place]
        assert isinstance(slot, Slot)
        alone = Traced(self._trace, (slot,))
        if self._trace.kinds[slot.leaf] != "text":
            # A call's words must be written as they are.
            if not alone.ask("strips to itself", characters):
                self.fail(way)
            return self
        if characters is not None and characters.strip():
            self.fail(way)
        if alone.ask("strips to nothing", characters):
            self.fail(way)
        pieces[place] = Slot(slot.leaf, True, (*slot.steps, (way, characters)))
        return Traced(self._trace, tuple(pieces))

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str | None):
            return bool(self.ask("equals", other))
        if isinstance(other, Traced):
            return bool(self.ask("is", other.pieces))
        return False if self.is_text and isinstance(other, bool | int | float) else self.fail("compare")

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __bool__(self) -> bool:
        return bool(self.ask("is true"))

    def __contains__(self, other: object) -> bool:
        if not self.is_text and isinstance(other, str):
            return bool(self.ask("has", other)) if self.type() is dict else self.fail("contains")
        return self._asked_as_text("contains", other)

    def __add__(self, other: object) -> "Traced":
        if isinstance(other, str):
            return Traced(self._trace, (*self._text(), other))
        return Traced(self._trace, (*self._text(), *other._text())) if isinstance(other, Traced) else self.fail("add")

    def __radd__(self, other: object) -> "Traced":
        return Traced(self._trace, (other, *self._text())) if isinstance(other, str) else self.fail("add")

    def _refused(self, *_: object) -> NoReturn:
        self.fail("an unknown use")

    def __iter__(self) -> Iterator["Traced"]:
        return iter([self.character()] * self._trace.characters())

    def __hash__(self) -> int:
        return int(self.fail("a text as a key"))

    __str__ = __repr__ = __format__ = __len__ = __getitem__ = _refused
    __lt__ = __le__ = __gt__ = __ge__ = __int__ = __float__ = __index__ = __mod__ = __mul__ = _refused


class Answers:
    """What has been asked about the texts of one row, with the answers."""

    def __init__(self, leaves: Sequence[Any], kinds: Sequence[Kind], length: int = 1) -> None:
        """`length` is how many characters a text has for a template that looks at each; it must not matter."""
        self.leaves = leaves
        """The row's values."""
        self.kinds = kinds
        self._length = length
        self.looks_at_characters = False
        self.given: dict[Question, Any] = {}

    def answer(self, question: Question) -> Any:
        """Return the answer for this row, and keep it."""
        try:
            answer = question.answer(self.leaves)
        except (TypeError, AttributeError, KeyError) as error:
            raise Untraceable(str(error)) from error
        self.given[question] = answer
        return answer

    def characters(self) -> int:
        """Return how many characters a text has."""
        self.looks_at_characters = True
        return self._length

    def checks(self) -> tuple[Check, ...]:
        """Return one for each question, in order: the later ones may make no sense where an earlier answer differs."""
        return tuple(check_of(question, answer) for question, answer in self.given.items())
