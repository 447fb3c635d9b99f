"""Calls whose arguments are not JSON text: XML (Qwen3-Coder, GLM) and Python. Each is told when it is complete."""

import json
import re
from collections.abc import Collection

from api.generation.calls.sections import SectionReader
from api.generation.calls.text_reader import Steps
from api.generation.calls.typed_values import Schemas, of_text, property_of, python_calls
from configs.tool_formats import CallFormat

_FUNCTION, _FUNCTION_END = "<function=", "</function>"
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)
_PAIR = re.compile(r"<arg_key>(.*?)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)
_PYTHON_HEAD = re.compile(r"\[\s*([A-Za-z_][\w.]*)\s*\(")
_MAY_BE_HEAD = re.compile(r"\[\s*([A-Za-z_][\w.]*)?\s*")


class XmlReader(SectionReader):
    """`<tool_call><function=f><parameter=a>1</parameter></function></tool_call>`."""

    def __init__(self, form: CallFormat, names: Collection[str], schemas: Schemas) -> None:
        super().__init__(form, names)
        self._schemas = schemas

    def _section(self, opening: str) -> Steps[None]:
        raw = opening
        if opening != _FUNCTION:
            while len(rest := self._text.lstrip()) < len(_FUNCTION) and _FUNCTION.startswith(rest):
                if not (yield from self._more()):
                    break
            if rest.startswith("{"):
                yield from self._json_calls(opening, self._form.closing)
                return
            if not rest.startswith(_FUNCTION):
                self._no_call(raw)
                return
            raw += self._taken(len(self._text) - len(rest) + len(_FUNCTION))
        searched = 0
        while (end := self._text.find(_FUNCTION_END, searched)) < 0:
            searched = max(len(self._text) - len(_FUNCTION_END) + 1, 0)
            if not (yield from self._more()):
                self._no_call(raw)
                return
        body = self._taken(end)
        self._taken(len(_FUNCTION_END))
        name, mark, written = body.partition(">")
        if not mark or not name.strip() or "<" in name:
            self._no_call(raw + body + _FUNCTION_END)
            return
        values = {key.strip(): value for key, value in _PARAMETER.findall(written)}
        self._typed(name.strip(), values)
        yield from self._passed((self._form.closing,))

    def _typed(self, name: str, values: dict[str, str]) -> None:
        arguments = {key: of_text(value, property_of(self._schemas, name, key)) for key, value in values.items()}
        self._call(name, json.dumps(arguments, ensure_ascii=False))


class GlmReader(XmlReader):
    """`<tool_call>f<arg_key>a</arg_key><arg_value>1</arg_value></tool_call>`."""

    def _section(self, opening: str) -> Steps[None]:
        closing, searched = self._form.closing, 0
        while (end := self._text.find(closing, searched)) < 0:
            searched = max(len(self._text) - len(closing) + 1, 0)
            if not (yield from self._more()):
                self._no_call(opening)
                return
        body = self._taken(end)
        self._taken(len(closing))
        name = body.partition("<arg_key>")[0].strip()
        if re.fullmatch(r"[\w.\-]{1,128}", name):
            self._typed(name, {key.strip(): value for key, value in _PAIR.findall(body)})
        else:
            self._no_call(opening + body + closing)


class PythonicReader(SectionReader):
    """`[f(a=1), g()]`, within markers, or as all of an answer."""

    def __init__(self, form: CallFormat, names: Collection[str], *, bare: bool) -> None:
        """`bare`: an answer may begin with it."""
        super().__init__(form, names)
        self._may_be_bare = bare

    def _bare(self) -> Steps[None]:
        yield from super()._bare()
        if not self._may_be_bare:
            return
        while _MAY_BE_HEAD.fullmatch(self._text.lstrip()) or not self._text.strip():
            if not (yield from self._more()):
                return
        head = _PYTHON_HEAD.match(self._text.lstrip())
        if head is not None and head[1] in self._names:
            yield from self._python_calls(self._names)

    def _section(self, opening: str) -> Steps[None]:
        while not (rest := self._text.lstrip()) and (yield from self._more()):
            pass
        if rest.startswith("{"):
            yield from self._json_calls(opening, self._form.closing)
        elif rest.startswith("[") and (yield from self._python_calls(None)):
            yield from self._passed((self._form.closing,))
        else:
            self._no_call(opening)

    def _python_calls(self, names: Collection[str] | None) -> Steps[bool]:
        """Read a list of calls; return whether it is one, and take nothing if not."""
        start = len(self._text) - len(self._text.lstrip())
        scan, at = PythonScan(), start
        while (end := scan.end(self._text[at:])) is None:
            at = len(self._text)
            if not (yield from self._more()):
                return False
        calls = python_calls(self._text[start : at + end])
        if calls is None or (names is not None and any(name not in names for name, _ in calls)):
            return False
        self._taken(at + end)
        for name, arguments in calls:
            self._call(name, json.dumps(arguments, ensure_ascii=False))
        return True


class PythonScan:
    """Finds the end of a Python list in a text that comes in pieces."""

    def __init__(self) -> None:
        self._depth = 0
        self._quote = ""
        self._escaped = False

    def end(self, piece: str) -> int | None:
        """Return where in this piece the list has ended; None if it goes on."""
        for place, character in enumerate(piece):
            if self._quote:
                if self._escaped:
                    self._escaped = False
                elif character == "\\":
                    self._escaped = True
                elif character == self._quote:
                    self._quote = ""
            elif character in "\"'":
                self._quote = character
            elif character in "[({":
                self._depth += 1
            elif character in "])}":
                self._depth -= 1
                if self._depth <= 0:
                    return place + 1
        return None
