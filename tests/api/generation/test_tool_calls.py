"""Calls are read out of a text, whole or in any pieces; what is no call stays content."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.generation.tool_calls import CallReader

LOOK = '{"name": "look", "arguments": {"at": "table"}}'
NAMES = ["look", "take"]


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def read(pieces) -> tuple[str, list[tuple[str, dict]]]:
    reader = CallReader(NAMES)
    content, calls = "", []
    for text, found in (*(reader.push(piece) for piece in pieces), reader.end()):
        content += text
        calls += found
    assert reader.calls == len(calls)
    return content, [(call.name, json.loads(call.arguments)) for call in calls]


CASES = {
    "text alone": ("The lamp is on.", "The lamp is on.", []),
    "nothing": ("", "", []),
    "one call": (tagged(LOOK), "", [("look", {"at": "table"})]),
    "two calls": (
        tagged(LOOK, '{"name": "take", "arguments": {}}'),
        "",
        [("look", {"at": "table"}), ("take", {})],
    ),
    "words before": (f"I look.\n\n{tagged(LOOK)}\n", "I look.", [("look", {"at": "table"})]),
    "words after": (f"{tagged(LOOK)}\nDone.", "\nDone.", [("look", {"at": "table"})]),
    "arguments as text": (
        tagged('{"name": "look", "arguments": "{\\"at\\": \\"shelf\\"}"}'),
        "",
        [("look", {"at": "shelf"})],
    ),
    "Llama's parameters": (tagged('{"name": "look", "parameters": {"at": 1}}'), "", [("look", {"at": 1})]),
    "a name that was made up": (tagged('{"name": "fly", "arguments": {}}'), "", [("fly", {})]),
    "broken JSON": (tagged('{"name": "look", '), tagged('{"name": "look", '), []),
    "no object": (tagged('{"name": "look", "arguments": [1]}'), tagged('{"name": "look", "arguments": [1]}'), []),
    "never closed": (f"<tool_call>\n{LOOK}", "", [("look", {"at": "table"})]),
    "cut short": ('<tool_call>\n{"name": "lo', '<tool_call>\n{"name": "lo', []),
    "almost a tag": ("a <tool_cal b", "a <tool_cal b", []),
    "bare": (LOOK, "", [("look", {"at": "table"})]),
    "bare, two": (f"{LOOK}; {LOOK}", "", [("look", {"at": "table"})] * 2),
    "bare, an unknown name": ('{"name": "Ada", "arguments": {}}', '{"name": "Ada", "arguments": {}}', []),
    "bare, an answer in JSON": ('{"name": "look"}', '{"name": "look"}', []),
    "bare, words after": (f"{LOOK} is what I would do", f"{LOOK} is what I would do", []),
    "an object in words": (f"It is {LOOK}", f"It is {LOOK}", []),
    "characters beyond ASCII": (
        tagged('{"name": "look", "arguments": {"at": "Tür 🙂"}}'),
        "",
        [("look", {"at": "Tür 🙂"})],
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_pieces(case, size):
    text, content, calls = CASES[case]
    found, names = read([text[start : start + size] for start in range(0, len(text), size)])
    assert names == calls
    assert found == content


PARTS = ["<tool_call>", "</tool_call>", LOOK, "{", "}", " ", "\n", "word", "<", "tool"]


@given(st.lists(st.sampled_from(PARTS), max_size=12))
def test_pieces_make_no_difference(parts):
    text = "".join(parts)
    assert read(parts) == read(list(text)) == read([text])


def test_content_does_not_wait_for_the_end():
    reader = CallReader(NAMES)
    assert reader.push("It is here")[0] == "It is here"
    assert reader.push(" and <to")[0] == " and"
    assert reader.push("day>")[0] == " <today>"


def test_every_call_has_an_id_of_its_own():
    reader = CallReader(NAMES)
    _, calls = reader.push(tagged(LOOK, LOOK))
    assert len({call.id for call in calls}) == 2
    assert all(call.id.startswith("call_") for call in calls)
