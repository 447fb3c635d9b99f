"""What every driver shares: each capability is tried by a function of its own and told in one line of JSON.

Needs nothing but Python: it runs in each client's own environment.
"""

import asyncio
import inspect
import json
import os
from collections.abc import Callable
from typing import Any

BASE_URL = os.environ["BASE_URL"]
"""Where the platform's endpoints of OpenAI's protocol begin: `http://…/v1`."""
MODEL = os.environ["MODEL"]
KEY = "none"
CITIES = ("Oslo", "Rome")
QUESTION = "What is the weather in Oslo?"
WEATHER = "3 °C and rain"
PLACE = {
    "type": "object",
    "properties": {"city": {"enum": list(CITIES)}},
    "required": ["city"],
    "additionalProperties": False,
}
"""The schema of what the tool `weather` is called with, and of structured answers."""
UNKNOWN = "no-such-model"
MISSING = f"There is no model {UNKNOWN!r}"
LONGEST_SAID = 300


def capability(name: str) -> Callable[[Callable[[], Any]], None]:
    """Run the function at once and tell how it went; what it returns is what was said."""

    def run(attempt: Callable[[], Any]) -> None:
        try:
            said = asyncio.run(attempt()) if inspect.iscoroutinefunction(attempt) else attempt()
        except Exception as error:  # noqa: BLE001  # whatever a client raises is what is told
            said, ok = f"{type(error).__name__}: {error}", False
        else:
            ok = bool(said)
        line = {"capability": name, "ok": ok, "said": str(said)[:LONGEST_SAID]}
        print(json.dumps(line, ensure_ascii=False), flush=True)

    return run


def refused(call: Callable[[], Any], error: type[Exception] | tuple[type[Exception], ...]) -> str:
    """Return the client's own exception for a model that does not exist, with our sentence in it."""
    try:
        call()
    except error as raised:
        return told(raised)
    raise AssertionError("an unknown model was answered")


def told(raised: Exception) -> str:
    """Return the exception as text, and fail unless it has our sentence about the missing model."""
    text = f"{type(raised).__name__}: {raised}"
    assert UNKNOWN in text, text
    return text


def in_city(arguments: str | dict[str, Any]) -> str:
    """Return a call's city, and fail unless it is one of those that the schema allows."""
    city: str = (json.loads(arguments) if isinstance(arguments, str) else arguments)["city"]
    assert city in CITIES, arguments
    return city
