"""From what a model says to output items and to the events that tell of them, in OpenAI's order and names."""

import time
from copy import deepcopy
from typing import Any

from api.generation.conversation import End, Said
from api.generation.reading import CallArguments, CallBegun, Content, Part, Reasoning
from api.routes.openai.responses.items import new_id

Event = dict[str, Any]
FINAL = ("response.completed", "response.incomplete", "response.failed")
"""The last event of a stream is one of these."""


class OutputWriter:
    """Writes one response: takes what the model says, gives events, and keeps `response` as it stands."""

    def __init__(self, response: dict[str, Any], *, with_logprobs: bool) -> None:
        self.response = response
        self._with_logprobs = with_logprobs
        self._sequence = 0
        self._item: dict[str, Any] | None = None
        """The item that is being written: the last of the output."""
        self._logprobs: list[dict[str, Any]] = []
        """Those of tokens whose text has not come yet."""

    @property
    def output(self) -> list[dict[str, Any]]:
        """The items so far."""
        items: list[dict[str, Any]] = self.response["output"]
        return items

    def begin(self, *, queued: bool) -> list[Event]:
        """Return the events before anything is said."""
        events = [self._of_response("response.created")]
        events += [self._of_response("response.queued")] if queued else []
        self.response["status"] = "in_progress"
        return [*events, self._of_response("response.in_progress")]

    def push(self, said: Said) -> list[Event]:
        """Return the events of what was said; with its end the response is final."""
        events: list[Event] = []
        tells_text = any(isinstance(part, Content) for part in said.parts)
        # Those of thoughts and calls have no place in the answer.
        self._logprobs = [*self._logprobs, *said.logprobs] if tells_text or not said.parts else []
        for part in said.parts:
            events += self._part(part)
        return events + (self._end(said.end) if said.end is not None else [])

    def fail(self, code: str, message: str) -> list[Event]:
        """Return the events of a failure; the response is final."""
        if self._item is not None:
            self._item["status"] = "incomplete"
        self.response |= {"status": "failed", "error": {"code": "server_error", "message": message}}
        told = self._event("error", {"code": code, "message": message, "param": None})
        return [told, self._of_response("response.failed")]

    def _part(self, part: Part) -> list[Event]:
        match part:
            case Content(text):
                events = self._open("message")
                logprobs, self._logprobs = self._logprobs if self._with_logprobs else [], []
                return [*events, self._text_delta(text, logprobs)]
            case Reasoning(text):
                events = self._open("reasoning")
                self._written()["text"] += text
                return [*events, self._within("response.reasoning_text.delta", {"content_index": 0, "delta": text})]
            case CallBegun(_, call_id, name):
                events = self._close("completed")
                self._item = {"id": new_id("fc"), "type": "function_call", "status": "in_progress"}
                self._item |= {"call_id": call_id, "name": name, "arguments": ""}
                return [*events, *self._added()]
            case CallArguments(_, text):
                assert self._item is not None
                self._item["arguments"] += text
                return [self._within("response.function_call_arguments.delta", {"delta": text})]

    def _open(self, kind: str) -> list[Event]:
        """Begin an item with one part of content, unless one of its kind is being written."""
        if self._item is not None and self._item["type"] == kind:
            return []
        events = self._close("completed")
        if kind == "message":
            part: dict[str, Any] = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            self._item = {"id": new_id("msg"), "type": "message", "status": "in_progress", "role": "assistant"}
        else:
            part = {"type": "reasoning_text", "text": ""}
            self._item = {"id": new_id("rs"), "type": "reasoning", "status": "in_progress", "summary": []}
        self._item["content"] = []
        events += self._added()
        self._item["content"].append(part)
        return [*events, self._within("response.content_part.added", {"content_index": 0, "part": deepcopy(part)})]

    def _added(self) -> list[Event]:
        assert self._item is not None
        self.output.append(self._item)
        item = dict(self._item) | ({"content": []} if "content" in self._item else {})
        return [self._event("response.output_item.added", {"output_index": len(self.output) - 1, "item": item})]

    def _text_delta(self, text: str, logprobs: list[dict[str, Any]]) -> Event:
        part = self._written()
        part["text"] += text
        part["logprobs"] += logprobs
        fields = {"content_index": 0, "delta": text, "logprobs": logprobs}
        return self._within("response.output_text.delta", fields)

    def _written(self) -> dict[str, Any]:
        assert self._item is not None
        part: dict[str, Any] = self._item["content"][0]
        return part

    def _close(self, status: str) -> list[Event]:
        """End the item that is being written."""
        item = self._item
        if item is None:
            return []
        events: list[Event] = []
        if item["type"] == "function_call":
            fields = {"arguments": item["arguments"], "name": item["name"]}
            events.append(self._within("response.function_call_arguments.done", fields))
        else:
            if item["type"] == "message" and self._logprobs and self._with_logprobs:
                events.append(self._text_delta("", self._logprobs))
            part = self._written()
            fields = {"content_index": 0, "text": part["text"]}
            if item["type"] == "message":
                fields |= {"logprobs": part["logprobs"]}
            name = "output_text" if item["type"] == "message" else "reasoning_text"
            events.append(self._within(f"response.{name}.done", fields))
            events.append(self._within("response.content_part.done", {"content_index": 0, "part": part}))
        item["status"] = status
        done = {"output_index": len(self.output) - 1, "item": item}
        events.append(self._event("response.output_item.done", done))
        self._item, self._logprobs = None, []
        return events

    def _end(self, end: End) -> list[Event]:
        # An answer of nothing is a message without text.
        events = [] if self.output else self._open("message")
        complete = end.finish_reason in ("stop", "tool_calls")
        events += self._close("completed" if complete else "incomplete")
        self.response |= {"usage": usage(end.prompt_tokens, end.generated_tokens, end.reasoning_tokens)}
        if complete:
            self.response |= {"status": "completed", "completed_at": time.time()}
            return [*events, self._of_response("response.completed")]
        self.response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        return [*events, self._of_response("response.incomplete")]

    def _within(self, kind: str, fields: dict[str, Any]) -> Event:
        """Return an event of the item that is being written."""
        assert self._item is not None
        return self._event(kind, {"item_id": self._item["id"], "output_index": len(self.output) - 1, **fields})

    def _of_response(self, kind: str) -> Event:
        return self._event(kind, {"response": {**self.response, "output": list(self.output)}})

    def _event(self, kind: str, fields: dict[str, Any]) -> Event:
        event = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return event


def usage(input_tokens: int, output_tokens: int, reasoning_tokens: int) -> dict[str, Any]:
    """Return token counts in the shape of responses."""
    return {
        "input_tokens": input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"reasoning_tokens": reasoning_tokens},
        "total_tokens": input_tokens + output_tokens,
    }
