"""Answers are taken apart in every format, whole or in any pieces; what is no call stays content."""

# ruff: noqa: RUF001 - DeepSeek's tokens have another bar

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.engine_server.schemas import AnswerForm
from api.generation.reading import AnswerReader, CallArguments, CallBegun, Content, Reasoning
from configs.tool_formats import FORMATS

LOOK = '{"name": "look", "arguments": {"at": "table"}}'
TAKE = '{"name": "take", "arguments": {}}'
LLAMA = LOOK.replace("arguments", "parameters")
SCHEMAS = {
    "look": {"properties": {"at": {"type": "string"}, "for": {"type": "integer"}, "deep": {"type": "boolean"}}},
    "take": {},
}
AT_TABLE = ("look", {"at": "table"})


def tagged(*calls: str) -> str:
    return "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)


def read(form: AnswerForm, pieces, names=("look", "take")) -> tuple[str, str, list[tuple[str, str]]]:
    reader = AnswerReader(form, names, SCHEMAS)
    content, reasoning = "", ""
    calls: list[tuple[str, str]] = []
    for part in [part for piece in pieces for part in reader.push(piece)] + reader.end():
        match part:
            case Content(text):
                content += text
            case Reasoning(text):
                reasoning += text
            case CallBegun(index, _, name):
                assert index == len(calls)
                calls.append((name, ""))
            case CallArguments(index, text):
                assert index == len(calls) - 1
                calls[index] = (calls[index][0], calls[index][1] + text)
    assert reader.calls == len(calls)
    return content, reasoning, calls


Case = tuple[str, str, list[Any]]
"""A text, the content in it, and the calls."""
HERMES: dict[str, Case] = {
    "text alone": ("The lamp is on.", "The lamp is on.", []),
    "nothing": ("", "", []),
    "white space": (" \n", " \n", []),
    "one call": (tagged(LOOK), "", [AT_TABLE]),
    "two calls": (tagged(LOOK, TAKE), "", [AT_TABLE, ("take", {})]),
    "two calls in a section": (f"<tool_call>[{LOOK}, {TAKE}]</tool_call>", "", [AT_TABLE, ("take", {})]),
    "words before": (f"I look.\n\n{tagged(LOOK)}\n", "I look.", [AT_TABLE]),
    "words after": (f"{tagged(LOOK)}\nDone.", "\nDone.", [AT_TABLE]),
    "arguments as text": (
        tagged('{"name": "look", "arguments": "{\\"at\\": \\"shelf\\"}"}'),
        "",
        [("look", {"at": "shelf"})],
    ),
    "arguments before the name": (tagged('{"arguments": {"at": 1}, "name": "look"}'), "", [("look", {"at": 1})]),
    "more behind the arguments": (tagged('{"name": "look", "arguments": {}, "id": "}"}'), "", [("look", {})]),
    "a function within": (tagged(f'{{"type": "function", "function": {LOOK}}}'), "", [AT_TABLE]),
    "no arguments": (tagged('{"name": "take"}'), "", [("take", {})]),
    "Llama's parameters": (tagged(LLAMA), "", [AT_TABLE]),
    "a name that was made up": (tagged('{"name": "fly", "arguments": {}}'), "", [("fly", {})]),
    "broken JSON": (tagged('{"name": "look", '), tagged('{"name": "look", '), []),
    "no object": (tagged('{"name": "look", "arguments": [1]}'), tagged('{"name": "look", "arguments": [1]}'), []),
    "never closed": (f"<tool_call>\n{LOOK}", "", [AT_TABLE]),
    "cut short": ('<tool_call>\n{"name": "lo', '<tool_call>\n{"name": "lo', []),
    "almost a tag": ("a <tool_cal b", "a <tool_cal b", []),
    "a tag in an argument": (
        tagged('{"name": "look", "arguments": {"at": "</tool_call>"}}'),
        "",
        [("look", {"at": "</tool_call>"})],
    ),
    "bare": (LOOK, "", [AT_TABLE]),
    "bare, two": (f"{LOOK}; {LOOK}", "", [AT_TABLE] * 2),
    "bare, an unknown name": ('{"name": "Ada", "arguments": {}}', '{"name": "Ada", "arguments": {}}', []),
    "bare, an answer in JSON": ('{"name": "look"}', '{"name": "look"}', []),
    "bare, words after": (f"{LOOK} is what I would do", f"{LOOK} is what I would do", []),
    "bare, cut short": ('{"name": "look", "arguments": {"at"', '{"name": "look", "arguments": {"at"', []),
    "an object in words": (f"It is {LOOK}", f"It is {LOOK}", []),
    "characters beyond ASCII": (
        tagged('{"name": "look", "arguments": {"at": "Tür 🙂"}}'),
        "",
        [("look", {"at": "Tür 🙂"})],
    ),
}
QWEN_LOOK = "<tool_call>\n<function=look>\n<parameter=at>\ntable\n</parameter>\n</function>\n</tool_call>"
QWEN_TYPES = (
    "<tool_call>\n<function=look>\n<parameter=at>\n5\n</parameter>\n<parameter=for>\n5\n</parameter>\n"
    "<parameter=deep>\ntrue\n</parameter>\n<parameter=other>\na\nb\n</parameter>\n</function>\n</tool_call>"
)
GLM_LOOK = "<tool_call>look\n<arg_key>at</arg_key>\n<arg_value>table</arg_value>\n</tool_call>"
DEEPSEEK = "<｜tool▁calls▁begin｜>{}<｜tool▁calls▁end｜>"
DEEPSEEK_OLD = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>look\n```json\n{"at": "table"}\n```<｜tool▁call▁end｜>'
DEEPSEEK_NEW = '<｜tool▁call▁begin｜>look<｜tool▁sep｜>{"at": "table"}<｜tool▁call▁end｜>'
HARMONY_CALL = '<|channel|>commentary to=functions.look <|constrain|>json<|message|>{"at": "table"}<|call|>'
OTHERS: dict[str, dict[str, Case]] = {
    "qwen3_coder": {
        "one": (QWEN_LOOK, "", [AT_TABLE]),
        "two, and words": (f"Hm.\n{QWEN_LOOK}\n{QWEN_LOOK}", "Hm.", [AT_TABLE] * 2),
        "types": (QWEN_TYPES, "", [("look", {"at": "5", "for": 5, "deep": True, "other": "a\nb"})]),
        "no tag around": (QWEN_LOOK.removeprefix("<tool_call>\n"), "", [AT_TABLE]),
        "JSON": (tagged(LOOK), "", [AT_TABLE]),
        "cut short": (QWEN_LOOK[:60], QWEN_LOOK[:60], []),
        "something else": ("<tool_call>hm</tool_call>", "<tool_call>hm</tool_call>", []),
    },
    "glm": {
        "one": (GLM_LOOK, "", [AT_TABLE]),
        "two": (f"{GLM_LOOK}\n{GLM_LOOK}", "", [AT_TABLE] * 2),
        "no arguments": ("<tool_call>take\n</tool_call>", "", [("take", {})]),
        "cut short": (GLM_LOOK[:30], GLM_LOOK[:30], []),
    },
    "llama_json": {
        "one": (LLAMA, "", [AT_TABLE]),
        "two": (f"{LLAMA}; {LLAMA}", "", [AT_TABLE] * 2),
        "behind the tag": (f"<|python_tag|>{LLAMA}", "", [AT_TABLE]),
        "words first": (f"I look. <|python_tag|>{LLAMA}", "I look.", [AT_TABLE]),
        "an answer in JSON": ('{"name": "Ada", "parameters": {}}', '{"name": "Ada", "parameters": {}}', []),
        "Llama 4's markers": (f"<|python_start|>{LLAMA}<|python_end|>", "", [AT_TABLE]),
    },
    "pythonic": {
        "one": ("[look(at='table')]", "", [AT_TABLE]),
        "several": ('[look(at="a]b", deep=True), take()]', "", [("look", {"at": "a]b", "deep": True}), ("take", {})]),
        "values": (
            "[look(at={'a': [1, -2.5, None]}, deep=false)]",
            "",
            [("look", {"at": {"a": [1, -2.5, None]}, "deep": False})],
        ),
        "JSON's escapes": ('[look(at="\\ud83d\\ude42\\/")]', "", [("look", {"at": "🙂/"})]),
        "markers": ("<|python_start|>[look(at='table')]<|python_end|>", "", [AT_TABLE]),
        "an unknown name": ("[fly(at=1)]", "[fly(at=1)]", []),
        "a list": ("[1, 2]", "[1, 2]", []),
        "code": ("[look(x) for x in y]", "[look(x) for x in y]", []),
        "cut short": ("[look(at='ta", "[look(at='ta", []),
    },
    "lfm2": {
        "two": (
            "<|tool_call_start|>[look(at='table'), take()]<|tool_call_end|>Now.",
            "Now.",
            [AT_TABLE, ("take", {})],
        ),
    },
    "mistral": {
        "a list": (f"[TOOL_CALLS] [{LOOK}, {TAKE}]", "", [AT_TABLE, ("take", {})]),
        "an id": ('[TOOL_CALLS] [{"name": "take", "arguments": {}, "id": "abcdefghi"}]', "", [("take", {})]),
        "words before": (f"Hm. [TOOL_CALLS][{LOOK}]", "Hm.", [AT_TABLE]),
        "something else": ("[TOOL_CALLS] hm", "[TOOL_CALLS] hm", []),
    },
    "mistral_named": {
        "one": ('[TOOL_CALLS]look[ARGS]{"at": "table"}', "", [AT_TABLE]),
        "two": ('[TOOL_CALLS]look[ARGS]{"at": "table"}[TOOL_CALLS]take[ARGS]{}', "", [AT_TABLE, ("take", {})]),
        "an id": ('[TOOL_CALLS]look[CALL_ID]abcdefghi[ARGS]{"at": "table"}', "", [AT_TABLE]),
        "a list": (f"[TOOL_CALLS] [{LOOK}]", "", [AT_TABLE]),
    },
    "granite": {
        "a list": (f"<|tool_call|>[{LOOK}, {TAKE}]", "", [AT_TABLE, ("take", {})]),
        "the plain tag": (f"<tool_call>[{LOOK}]", "", [AT_TABLE]),
    },
    "phi4": {"a list": (f"<|tool_call|>[{LOOK}, {TAKE}]<|/tool_call|>", "", [AT_TABLE, ("take", {})])},
    "deepseek": {
        "3": (DEEPSEEK.format(DEEPSEEK_OLD), "", [AT_TABLE]),
        "3, two": (DEEPSEEK.format(f"{DEEPSEEK_OLD}\n{DEEPSEEK_OLD}"), "", [AT_TABLE] * 2),
        "3.1, two": (f"Hm.{DEEPSEEK.format(DEEPSEEK_NEW * 2)}So.", "Hm.So.", [AT_TABLE] * 2),
        "something else": (DEEPSEEK.format("hm"), DEEPSEEK.format("hm"), []),
    },
    "harmony": {
        "an answer": ("<|channel|>final<|message|>It is on.", "It is on.", []),
        "a call": (HARMONY_CALL, "", [AT_TABLE]),
        "a call as the template writes it": (
            ' to=functions.look<|channel|>commentary json<|message|>{"at": "table"}<|call|>',
            "",
            [AT_TABLE],
        ),
        "words and a call": (
            f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{HARMONY_CALL}",
            "I look.",
            [AT_TABLE],
        ),
        "no message": ("It is on.", "It is on.", []),
    },
}
ALL: dict[str, dict[str, Case]] = {"hermes": HERMES, **OTHERS}
CASES = [(name, case) for name, cases in ALL.items() for case in cases]


@pytest.mark.parametrize(("name", "case"), CASES)
@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_pieces(name, case, size):
    text, content, calls = ALL[name][case]
    found, reasoning, read_calls = read(
        AnswerForm(tool_format=name), [text[start : start + size] for start in range(0, len(text), size)]
    )
    assert [(called, json.loads(arguments)) for called, arguments in read_calls] == calls
    assert (found, reasoning) == (content, "")


def test_every_format_has_cases():
    assert {name for name, _ in CASES} == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_without_functions_everything_is_content(name):
    for text, _, _ in ALL[name].values():
        if name != "harmony":
            assert read(AnswerForm(tool_format=name), [text], names=()) == (text, "", [])


PARTS = [
    *("<tool_call>", "</tool_call>", LOOK, "{", "}", "[", "]", " ", "\n", "word", "<", "tool", '"', "look", "(at=1)"),
    *("<function=look>", "<parameter=at>", "</parameter>", "</function>", "<arg_key>", "[TOOL_CALLS]", "[ARGS]"),
    *("<|tool_call|>", "<|python_tag|>", "<think>", "</think>", "<｜tool▁calls▁begin｜>", DEEPSEEK_NEW),
    *("<|channel|>", "analysis", "<|message|>", " to=functions.look", "<|end|>", "<|start|>", "<｜tool▁calls▁end｜>"),
]


@given(st.sampled_from(list(FORMATS)), st.booleans(), st.lists(st.sampled_from(PARTS), max_size=12))
def test_pieces_make_no_difference(name, thinks, parts):
    form = AnswerForm(tool_format=name, reasoning="<think>" if thinks else None)
    text = "".join(parts)
    assert read(form, parts) == read(form, list(text)) == read(form, [text])


@given(st.sampled_from(CASES), st.lists(st.integers(0, 300), max_size=6))
def test_a_text_may_be_split_anywhere(named, places):
    text = ALL[named[0]][named[1]][0]
    cuts = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    pieces = [text[start:end] for start, end in pairwise(cuts)]
    form = AnswerForm(tool_format=named[0])
    assert read(form, pieces) == read(form, [text])


REASONED = {
    "reasoning and an answer": ("<think>", False, "<think>\nHm, so.\n</think>\n\nYes.", "Yes.", "Hm, so."),
    "begun by the prompt": ("<think>", True, "Hm, so.\n</think>\n\nYes.", "Yes.", "Hm, so."),
    "begun by both": ("<think>", True, "<think>\nHm.</think>Yes.", "Yes.", "Hm."),
    "none": ("<think>", False, "Yes: <think> is a tag.", "Yes: <think> is a tag.", ""),
    "empty": ("<think>", False, "<think>\n\n</think>\n\nYes.", "Yes.", ""),
    "cut short": ("<think>", False, "<think>\nHm, so</thi", "", "Hm, so</thi"),
    "Mistral's": ("[THINK]", False, "[THINK]Hm.[/THINK]Yes.", "Yes.", "Hm."),
    "Gemma's": ("<|channel>thought", False, "<|channel>thought\nHm.<channel|>Yes.", "Yes.", "Hm."),
    "a model that knows none": (None, False, "<think>Hm.</think>Yes.", "<think>Hm.</think>Yes.", ""),
}


@pytest.mark.parametrize("case", REASONED)
@pytest.mark.parametrize("size", [1, 3, 10_000])
def test_reasoning(case, size):
    opening, begins, text, content, reasoning = REASONED[case]
    form = AnswerForm(reasoning=opening, begins_in_reasoning=begins)
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert read(form, pieces, names=()) == (content, reasoning, [])


def test_reasoning_before_a_call():
    form = AnswerForm(reasoning="<think>")
    assert read(form, [f"<think>{LOOK}?</think>\n{tagged(LOOK)}"]) == (
        "",
        f"{LOOK}?",
        [("look", '{"at": "table"}')],
    )


def test_harmonys_analysis_is_reasoning():
    text = f"<|channel|>analysis<|message|>Where?<|end|><|start|>assistant{HARMONY_CALL}"
    for pieces in ([text], list(text)):
        assert read(AnswerForm(tool_format="harmony"), pieces) == ("", "Where?", [("look", '{"at": "table"}')])


@pytest.mark.parametrize(
    ("name", "before", "arguments"),
    [
        ("hermes", '<tool_call>\n{"name": "look", "arguments": ', '{"at": "table"}'),
        ("llama_json", '{"name": "look", "parameters": ', '{"at": "table"}'),
        ("mistral", '[TOOL_CALLS] [{"name": "look", "arguments": ', '{"at": "table"}'),
        ("mistral_named", "[TOOL_CALLS]look[ARGS]", '{"at": "table"}'),
        ("granite", '<|tool_call|>[{"name": "look", "arguments": ', '{"at": "table"}'),
        ("phi4", '<|tool_call|>[{"name": "look", "arguments": ', '{"at": "table"}'),
        ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>look<｜tool▁sep｜>", '{"at": "table"}'),
        ("harmony", "<|channel|>commentary to=functions.look <|constrain|>json<|message|>", '{"at": "table"}'),
    ],
)
def test_a_name_is_told_before_the_arguments_and_these_as_they_come(name, before, arguments):
    reader = AnswerReader(AnswerForm(tool_format=name), ["look"])
    begun, *rest = reader.push(before + arguments[:1])
    assert isinstance(begun, CallBegun)
    assert begun.name == "look"
    told = [part.text for part in rest if isinstance(part, CallArguments)]
    for character in arguments[1:]:
        (part,) = reader.push(character)
        assert isinstance(part, CallArguments)
        told.append(part.text)
    assert "".join(told) == arguments


def test_content_does_not_wait_for_the_end():
    reader = AnswerReader(AnswerForm(), ["look"])
    assert reader.push("It is here") == [Content("It is here")]
    assert reader.push(" and <to") == [Content(" and")]
    assert reader.push("day>") == [Content(" <today>")]


def test_every_call_has_an_id_of_its_own():
    reader = AnswerReader(AnswerForm(), ["look"])
    ids = {part.id for part in reader.push(tagged(LOOK, LOOK)) if isinstance(part, CallBegun)}
    assert len(ids) == 2
    assert all(id.startswith("call_") for id in ids)


def test_what_a_server_has_read_by_itself():
    reader = AnswerReader(AnswerForm(), ["look"])
    begin = {"index": 0, "id": "call_a", "function": {"name": "look", "arguments": ""}}
    assert reader.told("Hm.", [begin]) == [Reasoning("Hm."), CallBegun(0, "call_a", "look")]
    assert reader.told("", [{"index": 0, "function": {"arguments": "{}"}}]) == [CallArguments(0, "{}")]
    other = {"index": 1, "id": "call_b", "function": {"name": "look", "arguments": "{"}}
    assert reader.told("", [other]) == [CallBegun(1, "call_b", "look"), CallArguments(1, "{")]
    assert reader.calls == 2
