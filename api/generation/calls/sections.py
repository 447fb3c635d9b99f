"""Calls in sections of a text that markers begin: content outside, inside JSON that is passed on as it comes."""

import re
from collections.abc import Collection

from api.generation.calls.json_text import JsonScan, call_in, parsed
from api.generation.calls.text_reader import Steps, TextReader, beginning_of, first_of
from configs.tool_formats import CallFormat

BETWEEN = " \r\n\t;,"
"""What may stand between two calls."""
_HEAD = re.compile(
    r'\{\s*(?:"(?:id|type)"\s*:\s*"[^"\\<>\[\]{}]*"\s*,\s*)*"name"\s*:\s*"([^"\\<>\[\]{}]{1,128})"\s*,'
    r'\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


class SectionReader(TextReader):
    """Takes a text apart into content and sections.

    A call must be JSON with a name and an object of arguments; within a section any name counts, as a model that makes
    one up has made a call. Bare JSON is a call only if all of the text is, and names a known function. What is no call
    stays content, word for word. Once its name is told, a call's arguments are passed on as the model writes them.
    """

    lenient = True
    """Whether JSON that is all of an answer may be calls, in formats that mark these."""

    def __init__(self, form: CallFormat, names: Collection[str]) -> None:
        """`names` are those of the functions that may be called."""
        super().__init__()
        self._form = form
        self._names = names
        self._gap = ""
        """White space before a section, which belongs to the format if there is a call in it."""

    def _read(self) -> Steps[None]:
        yield from self._bare()
        while (opening := (yield from self._content())) is not None:
            yield from self._section(opening)

    def _bare(self) -> Steps[None]:
        """Read calls that are all of the text."""
        if self.lenient:
            yield from self._bare_json()

    def _section(self, opening: str) -> Steps[None]:
        """Read what an opening has begun."""
        yield from self._json_calls(opening, self._form.closing)

    def _content(self) -> Steps[str | None]:
        """Read up to a section; return its opening, None if there is no other."""
        openings = self._form.openings
        while True:
            if (found := first_of(openings, self._text)) is not None:
                at, opening = found
                before = self._taken(at + len(opening))[:at]
                self._said(before.rstrip())
                self._gap = before[len(before.rstrip()) :]
                return opening
            certain = self._text[: len(self._text) - beginning_of(openings, self._text)].rstrip()
            self._said(self._taken(len(certain)))
            if not (yield from self._more()):
                rest = self._taken(len(self._text))
                self._said(rest if rest.strip() or not self.calls else "")
                return None

    def _no_call(self, raw: str) -> None:
        """Tell as content what looked as if it were going to be a call."""
        self._said(self._gap + raw)
        self._gap = ""

    def _call(self, name: str, arguments: str) -> None:
        """Tell a call that is complete."""
        self._argued(self._begun(name), arguments)

    def _bare_json(self) -> Steps[None]:
        calls: list[tuple[str, str]] = []
        taken = 0
        while True:
            rest = self._text[taken:].lstrip(BETWEEN if calls else None)
            start = len(self._text) - len(rest)
            if not rest:
                if (yield from self._more()):
                    continue
                break
            end = (yield from self._object_end(start)) if rest.startswith("{") else None
            call = None if end is None else call_in(parsed(self._text[start:end]), self._names)
            if end is None or call is None:
                return
            calls.append(call)
            taken = end
        if calls:
            self._taken(len(self._text))
        for call in calls:
            self._call(*call)

    def _object_end(self, start: int) -> Steps[int | None]:
        """Return where the object that begins at `start` ends, once it does; None if it never does."""
        scan, at = JsonScan(), start
        while (end := scan.end(self._text[at:])) is None:
            at = len(self._text)
            if not (yield from self._more()):
                return None
        return at + end

    def _json_calls(self, raw: str, closing: str, names: Collection[str] | None = None) -> Steps[None]:
        """Read objects, or a list of them, up to a closing marker, or to what is none of them.

        `raw` is what has been taken for their beginning, which stays content if there is no call. With `names`, only
        calls of these count.
        """
        in_list, at_first = False, True
        while True:
            rest = self._text.lstrip(BETWEEN)
            lead = len(self._text) - len(rest)
            waits = not rest or (closing and rest != closing and closing.startswith(rest))
            if waits and (yield from self._more()):
                continue
            if closing and rest.startswith(closing):
                self._left(raw, self._taken(lead + len(closing)))
                return
            if rest[:1] == "[" and at_first:
                in_list, at_first = True, False
                raw = raw and raw + self._text[: lead + 1]
                self._taken(lead + 1)
                continue
            if rest[:1] == "]" and in_list:
                in_list = False
                self._left(raw, self._taken(lead + 1))
                if not closing:
                    return
                raw = ""
                continue
            at_first = False
            if rest[:1] != "{" or not (yield from self._json_call(lead, closing, names)):
                break
            raw = ""
        if raw:
            self._no_call(raw)

    def _left(self, raw: str, last: str) -> None:
        if raw:
            self._no_call(raw + last)

    def _json_call(self, lead: int, closing: str, names: Collection[str] | None) -> Steps[bool]:
        """Read an object after `lead` characters; return whether it is a call, and take nothing if it is none."""
        scan, searched = JsonScan(), lead
        while True:
            if (head := _HEAD.match(self._text, lead)) is not None:
                if names is not None and head[1] not in names:
                    return False
                self._taken(head.end())
                yield from self._arguments(self._begun(head[1]))
                yield from self._rest_of_object(closing)
                return True
            end = scan.end(self._text[searched:])
            end = None if end is None else searched + end
            closed = self._text.find(closing, lead) if closing else -1
            if end is not None and (closed < 0 or end <= closed):
                call = call_in(parsed(self._text[lead:end]), names)
                if call is None:
                    return False
                self._taken(end)
                self._call(*call)
                return True
            searched = len(self._text)
            if closed >= 0 or not (yield from self._more()):
                return False

    def _arguments(self, index: int) -> Steps[None]:
        """Pass a JSON object on as it comes."""
        scan = JsonScan()
        while True:
            end = scan.end(self._text)
            self._argued(index, self._taken(len(self._text) if end is None else end))
            if end is not None or not (yield from self._more()):
                return

    def _rest_of_object(self, closing: str) -> Steps[None]:
        """Take what follows the arguments in a call's object."""
        while not (rest := self._text.lstrip()):
            if not (yield from self._more()):
                return
        if rest[0] == "}":
            self._text = rest[1:]
        elif rest[0] == ",":
            scan, searched = JsonScan(depth=1), 0
            while True:
                end = scan.end(self._text[searched:])
                end = None if end is None else searched + end
                closed = self._text.find(closing) if closing else -1
                if end is not None and (closed < 0 or end <= closed):
                    self._taken(end)
                    return
                searched = len(self._text)
                if closed >= 0 or not (yield from self._more()):
                    return


class NamedReader(SectionReader):
    """Formats that write a function's name before the JSON of its arguments: Mistral's newer, DeepSeek's."""

    def __init__(self, form: CallFormat, names: Collection[str], head: str, tails: tuple[str, ...]) -> None:
        """`head` is a pattern of what stands before the arguments, `tails` what may stand behind them."""
        super().__init__(form, names)
        self._head = re.compile(rf"\s*{head}\s*(?=\{{)")
        self._tails = tails

    def _section(self, opening: str) -> Steps[None]:
        raw = opening
        if not self._form.closing:
            while not (rest := self._text.lstrip()) and (yield from self._more()):
                pass
            if rest[:1] in ("[", "{"):
                yield from self._json_calls(opening, "")
                return
        while (head := (yield from self._matched(self._head))) is not None:
            raw = ""
            self._taken(head.end())
            yield from self._arguments(self._begun(head[1]))
            yield from self._passed(self._tails)
            if not self._form.closing or (yield from self._closes()):
                return
        if raw:
            self._no_call(raw)

    def _closes(self) -> Steps[bool]:
        """Return whether the section ends here, and take its end."""
        closing = self._form.closing
        while len(rest := self._text.lstrip()) < len(closing) and closing.startswith(rest):
            if not (yield from self._more()):
                return True
        if rest.startswith(closing):
            self._text = rest[len(closing) :]
            return True
        return False


class LlamaReader(SectionReader):
    """Llama 3's: bare JSON from the answer's beginning is passed on as it comes."""

    def _bare(self) -> Steps[None]:
        while not (rest := self._text.lstrip()) and (yield from self._more()):
            pass
        if rest.startswith("{"):
            yield from self._json_calls("", "", self._names)
            yield from self._passed(self._form.inner)

    def _section(self, opening: str) -> Steps[None]:
        yield from self._json_calls(opening, "")
        yield from self._passed(self._form.inner)
