"""Reads the promised API from its documentation: examples to run, and documented requests and responses."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}")
DOCUMENTATION = Path(__file__).resolve().parents[2] / "docs" / "api-documentation.md"


@dataclass(frozen=True)
class Endpoint:
    """One documented endpoint."""

    method: str
    path: str
    request: dict[str, Any] | None
    response: dict[str, Any]


def endpoints() -> dict[str, Endpoint]:
    """Return the documented endpoints by `METHOD /path`."""
    text = DOCUMENTATION.read_text(encoding="utf-8")
    sections = re.split(r"^(?=\*\*(?:GET|POST)\*\*)", text, flags=re.MULTILINE)[1:]
    found = {}
    for section in sections:
        method, path = re.match(r"\*\*(\w+)\*\* `([^`]+)`", section).groups()
        request = re.search(r"\*\*Request Body[^*]*\*\*\n```json\n(.*?)```", section, re.DOTALL)
        response = re.search(r"\*\*Response:\*\*\n```json\n(.*?)```", section, re.DOTALL)
        body = json.loads(request[1]) if request else None
        found[f"{method} {path}"] = Endpoint(method, path, body, json.loads(response[1]))
    return found


def examples(language: str) -> list[str]:
    """Return the code blocks of a language, as they stand."""
    return re.findall(rf"```{language}\n(.*?)```", DOCUMENTATION.read_text(encoding="utf-8"), re.DOTALL)


def differences(documented: Any, actual: Any, where: str = "answer") -> list[str]:
    """Return in what an answer differs from the documented one: fields that are missing, values of another type.

    A documented null may have any value. Whole numbers are fine where the page shows a fraction.
    """
    if documented is None:
        return []
    if isinstance(documented, dict) and isinstance(actual, dict):
        missing = [f"{where}.{key} is missing" for key in documented if key not in actual]
        common = [key for key in documented if key in actual]
        return missing + [d for key in common for d in differences(documented[key], actual[key], f"{where}.{key}")]
    if isinstance(documented, list) and isinstance(actual, list) and actual:
        return [d for entry in actual for d in differences(documented[0], entry, f"{where}[]")]
    return [] if _same_kind(documented, actual) else [f"{where} is {actual!r}, documented as {documented!r}"]


def _same_kind(documented: Any, actual: Any) -> bool:
    if isinstance(documented, str) and TIMESTAMP.fullmatch(documented):
        return isinstance(actual, str) and TIMESTAMP.fullmatch(actual) is not None
    accepted = (int, float) if isinstance(documented, float) else (type(documented),)
    return isinstance(actual, accepted) and not isinstance(actual, bool) and not isinstance(documented, list)
