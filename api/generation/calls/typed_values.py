"""From values that are not written as JSON to what a function's schema says that they are."""

import ast
import json
import warnings
from collections.abc import Mapping
from typing import Any

from api.generation.calls.json_text import parsed

Schemas = Mapping[str, Mapping[str, Any]]
"""The JSON schema of each function's arguments."""
_WORDS = {"true": True, "false": False, "null": None}


def of_text(text: str, schema: Any) -> Any:
    """Return what a text stands for: itself where the schema asks for a string, else the JSON value that it spells."""
    if isinstance(schema, Mapping) and schema.get("type") == "string":
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def property_of(schemas: Schemas, function: str, name: str) -> Any:
    """Return the schema of an argument; None where there is none."""
    properties = schemas.get(function, {}).get("properties")
    return properties.get(name) if isinstance(properties, Mapping) else None


def python_calls(text: str) -> list[tuple[str, dict[str, Any]]] | None:
    """Return the calls of a list such as `[f(a=1), g()]`, else None."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes that Python does not know
            tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    if not isinstance(tree, ast.List) or not tree.elts:
        return None
    calls = []
    for node in tree.elts:
        if not isinstance(node, ast.Call) or node.args or any(keyword.arg is None for keyword in node.keywords):
            return None
        try:
            arguments = {str(keyword.arg): _value(keyword.value, text.strip()) for keyword in node.keywords}
        except ValueError:
            return None
        calls.append((ast.unparse(node.func), arguments))
    return calls


def _value(node: ast.expr, source: str) -> Any:
    segment = ast.get_source_segment(source, node) or ""
    if (spelled := parsed(segment)) is not None:
        # JSON has escapes that Python reads otherwise.
        return spelled
    match node:
        case ast.Name(id=word) if word in _WORDS:
            return _WORDS[word]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value(item, source) for item in items]
        case ast.Dict(keys=keys, values=values) if None not in keys:
            return {
                str(_value(key, source)): _value(value, source)
                for key, value in zip(keys, values, strict=True)
                if key is not None
            }
    value = ast.literal_eval(node)
    if isinstance(value, str | int | float | None):
        return value
    raise ValueError(f"{type(value).__name__} has no place in JSON")
