"""What databases refuse, made storable: numbers that JSON has no word for, and characters that no text may have."""

import math
from collections.abc import Mapping
from typing import Any

NOT_FINITE = "not_finite"
"""Beside the null that stands in an event for a number that is none: which metrics, and what they were."""


def finite(value: float | None) -> float | None:
    """Return the number, or None where it is not a number or infinite."""
    return value if value is None or math.isfinite(value) else None


def storable(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return an event's data with null in place of numbers that are none, named under `not_finite`."""
    odd = {name: str(value) for name, value in data.items() if isinstance(value, float) and not math.isfinite(value)}
    return {**data, **dict.fromkeys(odd), NOT_FINITE: odd} if odd else dict(data)


def storable_text(text: str) -> str:
    """Return the text with NUL and lone surrogates, which PostgreSQL refuses, written out as escapes."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
