"""One training example: a conversation, of which a question with its answer is the shortest, or a plain text."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from zlib import crc32

from tasks.data.segments import CONTEXT

Role = Literal["system", "user", "assistant", "tool"]
ROLES: tuple[Role, ...] = ("system", "user", "assistant", "tool")

_OPTIONAL_TEXTS = ("tool_calls", "reasoning", "tool_call_id", "name")
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False)
_AS_JSON = json.encoder.encode_basestring
_AS_ASCII_JSON = json.encoder.encode_basestring_ascii


class DatasetError(ValueError):
    """The data cannot be used as it is; the sentence says why and what to do."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation. The JSON texts are canonical (`canonical_json`), so that equal turns are equal.

    Raises DatasetError for a string that UTF-8 cannot hold (JSON can smuggle in half a surrogate pair, which would
    otherwise fail much later, inside a tokenizer).
    """

    role: Role
    content: str | None
    """None where the row has none, as in a turn that only calls."""
    learned: bool = True
    """Whether an assistant's turn is trained on (OpenAI's `weight`); the other roles' turns never are."""
    tool_calls: str | None = None
    """JSON list of an assistant's calls, as in OpenAI's chat API; `arguments` are as the row has them, an object or the
    JSON text of one."""
    tool_call_id: str | None = None
    name: str | None = None
    reasoning: str | None = None
    """What an assistant thought before it answered (`reasoning_content`)."""
    weight: float = 1.0
    """What each token of a learned turn counts in the loss; more than 0, and 1 where the turn is not learned."""

    def __post_init__(self) -> None:
        if self.has_only_content and self.text.isascii():
            return
        for name in ("content", *_OPTIONAL_TEXTS):
            value = getattr(self, name)
            if value is not None and not value.isascii():
                _require_whole_characters(f"the {self.role}'s {name}", value)

    @property
    def has_only_content(self) -> bool:
        """Whether it is no more than what a role says."""
        return (
            self.tool_calls is None
            and self.tool_call_id is None
            and self.name is None
            and self.reasoning is None
            and self.content is not None
        )

    @property
    def text(self) -> str:
        """The content; "" if there is none."""
        return self.content or ""

    @property
    def is_target(self) -> bool:
        """Whether this turn carries a loss."""
        return self.role == "assistant" and self.learned

    def for_template(self) -> dict[str, Any]:
        """Return the turn as chat templates expect it, a call's arguments as an object."""
        turn = self.as_read()
        for call in turn.get("tool_calls", ()):
            if isinstance(call["function"]["arguments"], str):
                call["function"]["arguments"] = json.loads(call["function"]["arguments"] or "{}")
        return turn

    def as_read(self) -> dict[str, Any]:
        """Return the turn in OpenAI's format, with what the row has."""
        turn: dict[str, Any] = {"role": self.role, "content": self.content}
        if self.reasoning is not None:
            turn["reasoning_content"] = self.reasoning
        if self.tool_calls is not None:
            turn["tool_calls"] = json.loads(self.tool_calls)
        for name in ("tool_call_id", "name"):
            if (value := getattr(self, name)) is not None:
                turn[name] = value
        return turn


@dataclass(frozen=True, slots=True)
class Example:
    """A row to train or evaluate on: `messages` of a conversation, or a `text`; exactly one of them is not empty.

    A conversation ends with the assistant's turn and has at least one that is learned. Raises DatasetError otherwise.
    """

    messages: tuple[Message, ...] = ()
    text: str | None = None
    tools: str | None = None
    """JSON list of the tools that the assistant could call, as in OpenAI's chat API."""
    weight: float = 1.0
    """What the whole row counts in the loss, more than 0: the turns' own weights are multiplied with it."""
    before: str = ""
    """Where the text is a piece of a longer one, the last characters before it, and in `after` the first behind it."""
    after: str = ""
    is_plain: bool = field(init=False, repr=False, compare=False)
    """Whether it is a conversation of contents alone, all of them learned, and no more."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "is_plain", self._is_plain())
        if (self.text is None) == (not self.messages):
            raise DatasetError("a row is either a conversation or a plain text")
        if self.text is not None:
            for part in (self.before, self.text, self.after):
                _require_whole_characters("the text", part)
            return
        if self.tools is not None:
            _require_whole_characters("tools", self.tools)
        if self.messages[-1].role != "assistant":
            raise DatasetError(
                f"the last message is the {self.messages[-1].role}'s; it must be the assistant's, to be learned"
            )
        if not self.is_plain and not any(message.is_target for message in self.messages):
            raise DatasetError("every assistant message has weight 0, so there is nothing to learn")

    @classmethod
    def question(cls, prompt: str, answer: str) -> "Example":
        """Return the conversation of one question and its answer."""
        return cls((Message("user", prompt), Message("assistant", answer)))

    def _is_plain(self) -> bool:
        if self.tools is not None or self.weight != 1 or not self.messages:
            return False
        for message in self.messages:  # a loop: it is run for every row
            if message.weight != 1 or not message.learned or not message.has_only_content:
                return False
        return True

    @property
    def is_weighted(self) -> bool:
        """Whether any token that is learned counts otherwise than once."""
        return self.weight != 1 or any(message.weight != 1 for message in self.messages)

    @property
    def links(self) -> tuple[int, int]:
        """A number for each border to another piece of a text, the same for both pieces; 0 where it begins or ends."""
        if self.text is None:
            return 0, 0
        before = self.before and f"{self.before}\0{self.text[:CONTEXT]}"
        after = self.after and f"{self.text[-CONTEXT:]}\0{self.after}"
        return _number_of(before), _number_of(after)

    @property
    def prompt(self) -> str:
        """What a person reads as the question: all turns before the last, with their roles if there are several."""
        before = self.messages[:-1]
        if len(before) == 1:
            return before[0].text
        return "\n".join(f"{message.role}: {message.content or message.tool_calls or ''}" for message in before)

    @property
    def answer(self) -> str:
        """What a response is compared with: the last turn, or the whole text."""
        if self.text is not None:
            return self.text
        last = self.messages[-1]
        return last.content or last.tool_calls or ""

    @property
    def content_hash(self) -> str:
        """SHA-256 of the content, as 64 hex digits; the same on every machine and in every process.

        It is hashed as a JSON list, so that no two different rows run together into the same bytes.
        """
        return self.digest.hex()

    @property
    def digest(self) -> bytes:
        """The same as 32 bytes."""
        # As `json.dumps` writes a list of texts, in a quarter of its time.
        content = f"[{', '.join(map(_AS_ASCII_JSON, self._content()))}]"
        return hashlib.sha256(content.encode("ascii")).digest()

    def _content(self) -> list[str]:
        if self.before or self.after or (not self.is_plain and self.is_weighted):
            return ["row", self.as_json()]
        if self.text is not None:
            return ["text", "", self.text]
        if self.is_plain and len(self.messages) == 2 and self.messages[0].role == "user":
            return ["instruction", self.messages[0].text, self.messages[1].text]
        return ["conversation", self.as_json()]

    def as_json(self) -> str:
        """Return the whole example as canonical JSON; `Example.from_json` reads it back."""
        value: dict[str, Any] = {"weight": self.weight} if self.weight != 1 else {}
        if self.text is not None:
            around = {name: text for name in ("before", "after") if (text := getattr(self, name))}
            return canonical_json(value | {"text": self.text} | around)
        if self.is_plain:
            return plain_messages_json(self.messages)
        value["messages"] = [_as_value(message) for message in self.messages]
        return canonical_json(value | ({"tools": self.tools} if self.tools is not None else {}))

    @classmethod
    def from_json(cls, content: str) -> "Example":
        """Return what `as_json` wrote."""
        value: Mapping[str, Any] = json.loads(content)
        messages = tuple(Message(**message) for message in value.get("messages", ()))
        around = (value.get("before", ""), value.get("after", ""))
        return cls(messages, value.get("text"), value.get("tools"), value.get("weight", 1.0), *around)


def _as_value(message: Message) -> dict[str, Any]:
    """Return the fields that differ from their defaults: most turns are a role and a content."""
    value: dict[str, Any] = {"role": message.role, "content": message.content}
    if not message.has_only_content:
        value |= {field: text for field in _OPTIONAL_TEXTS if (text := getattr(message, field)) is not None}
    if not message.learned:
        value["learned"] = False
    if message.weight != 1:
        value["weight"] = message.weight
    return value


def _number_of(border: str) -> int:
    return (crc32(border.encode()) >> 1) or 1 if border else 0


def plain_messages_json(messages: Sequence[Message]) -> str:
    """Return `canonical_json` of learned messages that have only contents, in a third of its time: most rows are so."""
    written = [f'{{"content":{_AS_JSON(message.text)},"role":"{message.role}"}}' for message in messages]
    return f'{{"messages":[{",".join(written)}]}}'


def canonical_json(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, no spaces, characters as they are."""
    return _CANONICAL.encode(value)


def _require_whole_characters(name: str, value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise DatasetError(
            f"{name} holds half a surrogate pair at character {error.start}; send whole characters"
        ) from error
