"""Values of several kinds, told apart by what they say of themselves; one of no kind is refused in a sentence."""

from collections.abc import Callable
from typing import Any

from pydantic import Discriminator


def type_of(value: Any) -> Any:
    """Return what an object says its type is, given as JSON or already read."""
    return value.get("type") if isinstance(value, dict) else getattr(value, "type", None)


def one_of(kinds: dict[str, Callable[[Any], bool]], message: str) -> Discriminator:
    """Return what chooses the tag whose condition a value meets; `message` says what is accepted if there is none."""

    def choose(value: Any) -> str | None:
        return next((kind for kind, holds in kinds.items() if holds(value)), None)

    return Discriminator(choose, custom_error_type="not_accepted", custom_error_message=message)
