"""Sentences of what is wrong with a request's fields, without the parts that pydantic puts between them."""

from collections.abc import Mapping, Sequence
from typing import Any


def by_field(problems: Sequence[Any], body: Any) -> dict[str, list[Any]]:
    """Return the problems of each field; where a value may be of several kinds, each kind has one of its own.

    A value that is nearly of one kind is told what it lacks for that, not that it is of no other.
    """
    found: dict[str, list[Any]] = {}
    for problem in problems:
        found.setdefault(_field_name(problem, body), []).append(problem)
    within = {name.rpartition(".")[0] for name in found}
    within |= {name.rpartition(".")[0] for name in within}
    return {name: its for name, its in found.items() if not name or name not in within} or found


def sentence_of(name: str, alternatives: Sequence[Any]) -> str:
    """Return what is wrong with one field: its name, its value, what is accepted."""
    problem = alternatives[0]
    if problem["type"] == "missing":
        return f"{name} is required." if name else "A JSON object is required as the request body."
    if problem["type"] == "extra_forbidden":
        return f"{name} is not a known field; check its spelling."
    wanted = " or ".join(dict.fromkeys(_wanted(one) for one in alternatives))
    if not name:
        # Only our own checks across fields say which fields they are about.
        return f"{wanted}." if problem["type"] == "value_error" else "The request body must be a JSON object."
    return f"{name} is {shown(problem['input'])}, but {wanted[0].lower()}{wanted[1:]}."


def _wanted(problem: Any) -> str:
    said = str(problem["msg"]).removeprefix("Value error, ").removesuffix(".")
    if problem["type"].startswith(("union_tag", "dict_type", "model_type", "model_attributes")):
        expected = problem.get("ctx", {}).get("expected_tags")
        return f"its type must be one of {expected}" if expected else "it must be an object"
    return said


def _field_name(problem: Any, body: Any) -> str:
    """Return where the field is; the first part of its location (body, query, header) a client knows.

    What pydantic puts between the parts to tell which of several kinds a value might be of is no name of a field.
    """
    location = problem["loc"][1:]
    if problem["loc"][0] != "body" or not isinstance(body, Mapping | list):
        return ".".join(map(str, location))
    names, value = list[str](), body
    for place, part in enumerate(location):
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            names.append(str(part))
            value = value[part]
        elif place == len(location) - 1 and problem["type"] == "missing":
            names.append(str(part))
    return ".".join(names)


def shown(value: Any) -> str:
    """Return a value as a sentence names it: not all of a long one."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}…"
