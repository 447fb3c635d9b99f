"""Rows as JSON lines that every OpenAI-compatible service takes, and that an upload here reads back the same."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tasks.data.examples import Example, Message, canonical_json, plain_messages_json


def chat_line(example: Example) -> bytes:
    """Return a row as one line: `messages` and perhaps `tools` of OpenAI's chat format, or `text`."""
    if example.text is not None:
        row: dict[str, Any] = {"text": example.text}
    elif example.tools is None and all(message.learned and message.has_only_content for message in example.messages):
        return plain_messages_json(example.messages).encode() + b"\n"
    else:
        row = {"messages": [_turn(message) for message in example.messages]}
        if example.tools is not None:
            row["tools"] = json.loads(example.tools)
    return canonical_json(row).encode() + b"\n"


def chat_lines(examples: Iterable[Example]) -> Iterator[bytes]:
    """Yield the rows, a line each."""
    return map(chat_line, examples)


def _turn(message: Message) -> dict[str, Any]:
    turn = message.as_read()
    return turn if message.learned else turn | {"weight": 0}
