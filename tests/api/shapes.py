"""Compares answers of two versions: a newer one may say more, never less or otherwise."""

from typing import Any


def contains(answer: Any, before: Any) -> bool:
    """Return whether all that an older answer says is in a newer one, at every depth."""
    if isinstance(before, dict):
        return isinstance(answer, dict) and all(
            name in answer and contains(answer[name], value) for name, value in before.items()
        )
    return bool(answer == before)
