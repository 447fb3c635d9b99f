"""Rows as JSON lines that every OpenAI-compatible service takes, and that an upload here reads back the same."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from tasks.data.examples import Example, Message, canonical_json, plain_messages_json


def chat_line(example: Example) -> bytes:
    """Return a row as one line: `messages` and perhaps `tools` of OpenAI's chat format, or `text`."""
    if example.text is not None:
        row: dict[str, Any] = {"text": example.text}
        row |= {f"text_{name}": text for name in ("before", "after") if (text := getattr(example, name))}
    elif example.is_plain:
        return plain_messages_json(example.messages).encode() + b"\n"
    else:
        row = {"messages": [_turn(message) for message in example.messages]}
        if example.tools is not None:
            row["tools"] = json.loads(example.tools)
    if example.weight != 1:
        row["loss_weight"] = example.weight
    return canonical_json(row).encode() + b"\n"


def chat_lines(examples: Iterable[Example]) -> Iterator[bytes]:
    """Yield the rows, a line each."""
    return map(chat_line, examples)


def _turn(message: Message) -> dict[str, Any]:
    turn, weight = message.as_read(), message.weight if message.learned else 0
    return turn if weight == 1 else turn | {"weight": weight}
