"""gpt-oss's harmony: messages with headers, of which some are reasoning, some calls, and some the answer."""

import re
from collections.abc import Collection

from api.generation.calls.text_reader import Steps, TextReader, beginning_of, first_of
from api.generation.parts import Reasoning

_BODY = "<|message|>"
_HEADS = ("<|start|>", "<|channel|>", " to=")
_ENDS = ("<|end|>", "<|call|>", "<|return|>", "<|start|>", "<|channel|>")
_CHANNEL = re.compile(r"<\|channel\|>\s*(\w+)")
_RECIPIENT = re.compile(r"to=functions\.([^\s<]+)")


class HarmonyReader(TextReader):
    """Reads messages: the channel `analysis` is reasoning, what goes to a function is a call, the rest is content."""

    def __init__(self, names: Collection[str]) -> None:
        """`names` are those of the functions that may be called; without any, what goes to one is content."""
        super().__init__()
        self._names = names

    def _read(self) -> Steps[None]:
        while self._text or (yield from self._more()):
            yield from self._message()

    def _message(self) -> Steps[None]:
        header = ""
        while any(head.startswith(self._text) for head in _HEADS) and (yield from self._more()):
            pass
        if self._text.startswith(_HEADS):
            while (at := self._text.find(_BODY)) < 0:
                if not (yield from self._more()):
                    self._taken(len(self._text))  # a header says nothing by itself
                    return
            header = self._taken(at + len(_BODY))[:at]
        channel, recipient = _CHANNEL.search(header), _RECIPIENT.search(header)
        index = self._begun(recipient[1]) if recipient is not None and self._names else None
        thinks = index is None and channel is not None and channel[1] == "analysis"
        while True:
            found = first_of(_ENDS, self._text)
            held = 0 if self._ended else beginning_of(_ENDS, self._text)
            piece = self._taken(len(self._text) - held if found is None else found[0])
            if index is not None:
                self._argued(index, piece)
            elif not thinks:
                self._said(piece)
            elif piece:
                self._parts.append(Reasoning(piece))
            if found is not None:
                if found[1] not in _HEADS:
                    self._taken(len(found[1]))
                return
            if not (yield from self._more()):
                return
