"""JSON schemas as the grammar engine can keep to them: rewritten where it would get one wrong, else refused by name.

llguidance holds numbers as doubles, knows few formats and no `uniqueItems`, runs no look-around in patterns, and does
not notice a schema whose every value would be endless. An object whose properties are named, with no word of whether
there may be others, gets no others: a model that may add some of its own often does so until its tokens run out.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, permutations
from typing import Any
from urllib.parse import unquote

from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from tasks.inference.decimal_patterns import without_look_ahead

MOST_LEVELS = 100
"""How deep a schema may nest; the engine's own reader stops at 128, with what is around the schema."""
MOST_UNIQUE = 5
"""Of how many values at most all arrays without repeats are written out: five have 326."""
EXACT = 2**53
"""Up to here a double holds every integer."""
LARGEST = 2**63 - 1024
"""The largest double that the engine writes as an integer."""
KNOWN_FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid", "unknown")
)
"""Formats that the engine keeps to. Others are annotations, as JSON Schema has it."""
_BY_NAME = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_SINGLE = ("items", "additionalProperties", "additionalItems", "not", "contains", "propertyNames", "if", "then", "else")
# The engine has kept to patterns and formats, by a syntax of its own.
_UNIQUE = extend(Draft202012Validator, dict.fromkeys(("pattern", "format", "patternProperties"), lambda *_: None))
_REPEATING = extend(_UNIQUE, {"uniqueItems": lambda *_: None})
_LOWER, _UPPER = ("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")


_CLOSED = {"additionalProperties": False}
_ELSEWHERE = ("allOf", "not", "if", "dependentSchemas", "unevaluatedProperties")
_BRANCHES = ("anyOf", "oneOf", "$ref")
_SAY_OTHERS = ("additionalProperties", "patternProperties", "propertyNames", "minProperties")


class SchemaError(ValueError):
    """The JSON schema can't be followed; the sentence says why."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the JSON schema can't be followed: {reason}")


@dataclass(frozen=True)
class Prepared:
    """A schema for the engine, and whether arrays of its answers must be looked through for items that repeat."""

    schema: Any
    unique_items: bool


def prepare(schema: dict[str, Any], defect: Callable[[str], str | None]) -> Prepared:
    """Return the schema as the engine gets it; raises `SchemaError` for what can't be kept to.

    `defect` says why the engine can't run a pattern, None if it can.
    """
    _require_shallow(schema)
    _require_finite(schema)
    preparation = _Preparation(schema, defect)
    return Prepared(preparation.rewritten(schema, "#"), preparation.unique_items)


def repeats_items(schema: dict[str, Any], value: Any) -> bool:
    """Return whether the value breaks the schema by nothing but a `uniqueItems`."""
    return not _UNIQUE(schema).is_valid(value) and bool(_REPEATING(schema).is_valid(value))


def resolved(schema: Any, root: Any) -> Any:
    """Return what a `$ref` within the document points to, at last; the schema itself if it has none that is found."""
    seen: set[str] = set()
    while isinstance(schema, dict) and isinstance(ref := schema.get("$ref"), str) and ref not in seen:
        seen.add(ref)
        target = _target(ref, root)
        if target is None:
            break
        schema = target
    return schema


class _Preparation:
    """Rewrites one schema."""

    def __init__(self, root: dict[str, Any], defect: Callable[[str], str | None]) -> None:
        self.unique_items = False
        self._root = root
        self._defect = defect
        self._closes = all(_names_all(node) for node in _nodes(root))

    def rewritten(self, schema: Any, place: str) -> Any:
        """Return the schema at `place`, a JSON pointer, as the engine gets it."""
        if not isinstance(schema, dict):
            return schema
        new = {key: self._part(key, value, f"{place}/{key}") for key, value in schema.items()}
        new = self._with_names(new)
        if self._closes and _is_left_open(schema):
            new |= _CLOSED
        if isinstance(new.get("format"), str) and new["format"] not in KNOWN_FORMATS:
            del new["format"]
        for key in ("const", "enum"):
            if (wrong := next(_inexact(new.get(key)), None)) is not None:
                reason = f"{place}/{key} holds {wrong}, and integers that no double can hold are not kept to exactly"
                raise SchemaError(f"{reason}: describe it as a string")
        _narrow(new, place)
        if isinstance(new.get("pattern"), str):
            new["pattern"] = self._runnable(new["pattern"], f"{place}/pattern")
        if new.pop("uniqueItems", False) is True:
            if (arrays := self._arrays_without_repeats(schema, place)) is not None:
                return {"enum": arrays}
            self.unique_items = True
        return new

    def _part(self, key: str, value: Any, place: str) -> Any:
        if key in _BY_NAME and isinstance(value, dict):
            if key == "patternProperties":
                value = {self._runnable(pattern, place): own for pattern, own in value.items()}
            return {name: self.rewritten(own, f"{place}/{name}") for name, own in value.items()}
        if key in _LISTS and isinstance(value, list):
            return [self.rewritten(own, f"{place}/{number}") for number, own in enumerate(value)]
        return self.rewritten(value, place) if key in _SINGLE else value

    def _with_names(self, schema: dict[str, Any]) -> dict[str, Any]:
        """Return an object's schema without `propertyNames`, which the engine lacks, where it can be said otherwise."""
        names = resolved(schema.get("propertyNames"), self._root)
        if not isinstance(names, dict) or schema.keys() & {"properties", "patternProperties"}:
            return schema
        others = {key: value for key, value in schema.items() if key != "propertyNames"}
        value = schema.get("additionalProperties", True)
        if isinstance(known := names.get("enum"), list):
            return others | {"properties": {name: value for name in known if isinstance(name, str)}} | _CLOSED
        said = names.keys() - {"type", "title", "description"}
        if said and said <= {"minLength", "maxLength"}:
            pattern = rf"^[\s\S]{{{names.get('minLength', 0)},{names.get('maxLength', '')}}}$"
        elif said == {"pattern"}:
            pattern = names["pattern"]
        else:
            return schema
        return others | {"patternProperties": {pattern: value}} | _CLOSED

    def _runnable(self, pattern: str, place: str) -> str:
        """Return the pattern, or one that means the same and runs; raises `SchemaError`."""
        if (reason := self._defect(pattern)) is None:
            return pattern
        if (plain := without_look_ahead(pattern)) is not None:
            return plain
        raise SchemaError(f"the pattern {pattern!r} at {place} can't be run: {reason}")

    def _arrays_without_repeats(self, schema: dict[str, Any], place: str) -> list[list[Any]] | None:
        """Return all values of an array of few possible items; None if they are too many, or not known."""
        others = schema.keys() & {"prefixItems", "contains", "anyOf", "oneOf", "allOf", "$ref", "const", "enum"}
        if schema.get("type") != "array" or others:
            return None
        values = _few_values(resolved(schema.get("items"), self._root))
        if values is None:
            return None
        least, most = schema.get("minItems") or 0, schema.get("maxItems")
        sizes = range(least, min(len(values), len(values) if most is None else most) + 1)
        arrays = [list(array) for size in sizes for array in permutations(values, size)]
        if not arrays:
            raise SchemaError(
                f"{place} wants at least {least} items without repeats, and there are {len(values)} values"
            )
        return arrays


def _names_all(schema: dict[str, Any]) -> bool:
    """Return whether an object's properties are all named in one place, and not added to by another schema."""
    if any(word in schema for word in _ELSEWHERE):
        return False
    return "properties" not in schema or not any(word in schema for word in _BRANCHES)


def _is_left_open(schema: dict[str, Any]) -> bool:
    """Return whether an object names properties and says nothing of others, which it does not need either."""
    named = schema.get("properties")
    if not named or not isinstance(named, dict) or any(word in schema for word in _SAY_OTHERS):
        return False
    return set(schema.get("required") or ()) <= named.keys()


def _few_values(items: Any) -> list[Any] | None:
    """Return the possible items, if a handful."""
    if not isinstance(items, dict):
        return None
    values = items.get("enum", [items["const"]] if "const" in items else None)
    if values is None and items.get("type") == "boolean":
        values = [True, False]
    if not isinstance(values, list) or items.keys() & {"anyOf", "oneOf", "allOf", "not", "pattern"}:
        return None
    distinct = list({json.dumps(value, sort_keys=True): value for value in values}.values())
    return distinct if len(distinct) <= MOST_UNIQUE and next(_inexact(distinct), None) is None else None


def _narrow(schema: dict[str, Any], place: str) -> None:
    """Move bounds that no double holds inwards to one that does; raises `SchemaError` if nothing is left between."""
    before = dict(schema)
    for names, towards in ((_LOWER, math.inf), (_UPPER, -math.inf)):
        for name in names:
            bound = schema.get(name)
            if isinstance(bound, int | float) and not isinstance(bound, bool):
                schema[name] = _held(bound, towards)
    # Without another end the engine would write digits that it can't count.
    if any(_is_number(schema.get(name)) and schema[name] > EXACT for name in _LOWER) and not schema.keys() & {*_UPPER}:
        schema["maximum"] = LARGEST
    if any(_is_number(schema.get(name)) and schema[name] < -EXACT for name in _UPPER) and not schema.keys() & {*_LOWER}:
        schema["minimum"] = -LARGEST
    least = max((schema[name] for name in _LOWER if _is_number(schema.get(name))), default=-math.inf)
    most = min((schema[name] for name in _UPPER if _is_number(schema.get(name))), default=math.inf)
    moved = any(schema[name] != value for name, value in before.items() if name in (*_LOWER, *_UPPER))
    if moved and least > most:
        named = " and ".join(f"{name} {before[name]}" for name in (*_LOWER, *_UPPER) if name in before)
        raise SchemaError(f"no number between {named} at {place} can be kept to exactly: describe it as a string")


def _held(bound: float, towards: float) -> float:
    """Return the nearest bound that a double holds and the engine writes, in the direction `towards`."""
    if towards > 0 and bound < -LARGEST:
        return -LARGEST
    if towards < 0 and bound > LARGEST:
        return LARGEST
    if isinstance(bound, float) or abs(bound) > LARGEST:
        return bound
    near = float(bound)
    if near < bound if towards > 0 else near > bound:
        near = math.nextafter(near, towards)
    return int(near)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _inexact(value: Any) -> Iterator[int]:
    """Yield the integers in a JSON value that no double holds."""
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > LARGEST or int(float(value)) != value:
            yield value
    elif isinstance(value, list | dict):
        for own in value.values() if isinstance(value, dict) else value:
            yield from _inexact(own)


def _require_shallow(schema: Any) -> None:
    """Raise `SchemaError` if the schema nests deeper than is read."""
    level, depth = [schema], 0
    while level:
        depth += 1
        if depth > MOST_LEVELS:
            raise SchemaError(f"it nests more than {MOST_LEVELS} levels deep, and that many are read")
        level = [own for value in level for own in _inside(value) if isinstance(own, dict | list)]


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value


def _require_finite(root: dict[str, Any]) -> None:
    """Raise `SchemaError` for a `$ref` to what only an endless value could match."""
    refs = {ref for node in _nodes(root) if isinstance(ref := node.get("$ref"), str) and _target(ref, root) is not None}
    finite: set[str] = set()
    while found := {ref for ref in refs - finite if _is_finite(_target(ref, root), finite, refs)}:
        finite |= found
    if endless := sorted(refs - finite):
        raise SchemaError(f"what {endless[0]} refers to has no finite value, as it always holds itself")


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield the schema and all schemas within."""
    if not isinstance(schema, dict):
        return
    yield schema
    for key, value in schema.items():
        inner: Iterable[Any] = ()
        if key in _BY_NAME and isinstance(value, dict):
            inner = value.values()
        elif key in _LISTS and isinstance(value, list):
            inner = value
        elif key in _SINGLE:
            inner = [value]
        yield from chain.from_iterable(map(_nodes, inner))


def _is_finite(schema: Any, finite: set[str], refs: set[str]) -> bool:
    """Return whether a finite value matches, where those of the `finite` references are known to."""
    if not isinstance(schema, dict) or "const" in schema or "enum" in schema:
        return True
    if (ref := schema.get("$ref")) in refs and ref not in finite:
        return False
    for name, enough in (("anyOf", any), ("oneOf", any), ("allOf", all)):
        options = schema.get(name)
        if isinstance(options, list) and options and not enough(_is_finite(each, finite, refs) for each in options):
            return False
    if schema.get("type") == "object":
        known = schema.get("properties") or {}
        return all(_is_finite(known.get(name), finite, refs) for name in schema.get("required") or [])
    if schema.get("type") == "array":
        first = schema.get("prefixItems") or []
        count = schema.get("minItems") or 0
        needed = [*first[:count], *([schema.get("items")] if count > len(first) else [])]
        return all(_is_finite(each, finite, refs) for each in needed)
    return True


def _target(ref: str, root: Any) -> Any:
    """Return what a JSON pointer within the document names; None if it is not found."""
    if not ref.startswith("#"):
        return None
    found = root
    for part in unquote(ref[1:]).split("/")[1:]:
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(found, dict) and name in found:
            found = found[name]
        elif isinstance(found, list) and name.isdecimal() and int(name) < len(found):
            found = found[int(name)]
        else:
            return None
    return found
