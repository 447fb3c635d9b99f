"""From what a model says to blocks of content and to the events that tell of them, in Anthropic's order and names."""

import json
from copy import deepcopy
from typing import Any

from api.generation.conversation import End, Said
from api.generation.reading import CallArguments, CallBegun, Content, Part, Reasoning

Event = dict[str, Any]
STOP_REASONS = {"stop": "end_turn", "tool_calls": "tool_use", "length": "max_tokens", "cancelled": "end_turn"}
FIELDS = {"text": "text", "thinking": "thinking"}


class MessageWriter:
    """Writes one message: takes what the model says, gives events, and keeps `message` as it stands."""

    def __init__(self, id: str, model: str) -> None:
        self.message: dict[str, Any] = {
            "id": id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": _usage(0, 0),
        }
        self._block: dict[str, Any] | None = None
        """The block that is being written: the last of the content."""
        self._arguments = ""
        """JSON text of the arguments of the call that is being written."""

    @property
    def content(self) -> list[dict[str, Any]]:
        """The blocks so far."""
        blocks: list[dict[str, Any]] = self.message["content"]
        return blocks

    def begin(self, prompt_tokens: int) -> list[Event]:
        """Return the events before anything is said."""
        self.message["usage"] = _usage(prompt_tokens, 0)
        return [{"type": "message_start", "message": deepcopy(self.message)}, {"type": "ping"}]

    def push(self, said: Said) -> list[Event]:
        """Return the events of what was said."""
        events = [event for part in said.parts for event in self._part(part)]
        return events + (self._end(said.end) if said.end is not None else [])

    def _part(self, part: Part) -> list[Event]:
        match part:
            case Content(text):
                return [*self._open("text", {"type": "text", "text": ""}), self._delta("text", text)]
            case Reasoning(text):
                block = {"type": "thinking", "thinking": "", "signature": ""}
                return [*self._open("thinking", block), self._delta("thinking", text)]
            case CallBegun(_, call_id, name):
                closing = self._close()
                self._arguments = ""
                return [*closing, *self._open("", {"type": "tool_use", "id": call_id, "name": name, "input": {}})]
            case CallArguments(_, text):
                self._arguments += text
                return [self._of_block("delta", delta={"type": "input_json_delta", "partial_json": text})]

    def _open(self, kind: str, block: dict[str, Any]) -> list[Event]:
        """Begin a block, unless one of the kind is being written."""
        if self._block is not None and self._block["type"] == kind:
            return []
        closing = self._close()
        self._block = block
        self.content.append(block)
        return [*closing, self._of_block("start", content_block=dict(block))]

    def _delta(self, kind: str, text: str) -> Event:
        assert self._block is not None
        self._block[FIELDS[kind]] += text
        return self._of_block("delta", delta={"type": f"{kind}_delta", FIELDS[kind]: text})

    def _close(self) -> list[Event]:
        block = self._block
        if block is None:
            return []
        events = []
        if block["type"] == "thinking":
            events.append(self._of_block("delta", delta={"type": "signature_delta", "signature": ""}))
        if block["type"] == "tool_use":
            block["input"] = json.loads(self._arguments or "{}")
        events.append(self._of_block("stop"))
        self._block = None
        return events

    def _end(self, end: End) -> list[Event]:
        # Clients read the first block: an answer of nothing is a text without characters.
        events = [] if self.content else self._open("text", {"type": "text", "text": ""})
        events += self._close()
        by_string = end.finish_reason == "stop" and end.stop_string is not None
        reason = "stop_sequence" if by_string else STOP_REASONS[end.finish_reason]
        ended = {"stop_reason": reason, "stop_sequence": end.stop_string if by_string else None}
        self.message |= {**ended, "usage": _usage(end.prompt_tokens, end.generated_tokens)}
        told = {"type": "message_delta", "delta": ended, "usage": self.message["usage"]}
        return [*events, told, {"type": "message_stop"}]

    def _of_block(self, what: str, **fields: Any) -> Event:
        return {"type": f"content_block_{what}", "index": len(self.content) - 1, **fields}


def _usage(input_tokens: int, output_tokens: int) -> dict[str, Any]:
    return {
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    }
