"""Calls that keep to their schemas, whatever the model would rather say, in every format."""

import json
from typing import Any

import jsonschema
import pytest
import torch
from tokenizers import AddedToken

from api.engine_server.schemas import AnswerForm
from api.generation.reading import AnswerReader, CallArguments, CallBegun, Content, Reasoning
from configs.tool_formats import FORMATS
from tasks.inference.constraint import constraint_tokenizer
from tasks.inference.text import TextStream
from tasks.inference.tool_grammar import ANY_OBJECT, CallConstraint, CallRules, CallsError, Thoughts
from tests.tiny_models import byte_level_tokenizer

LOOK = {
    "type": "object",
    "properties": {
        "at": {"enum": ["table", "shelf"], "type": "string"},
        "times": {"type": "integer", "minimum": 0, "maximum": 99},
        "deep": {"type": "boolean"},
        "words": {"type": "string", "maxLength": 6},
    },
    "required": ["at", "times"],
}
CHOICE = {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, None]}}}
SCHEMAS: dict[str, Any] = {"look": LOOK, "choose": CHOICE, "wait": None}
NOTHING: dict[str, Any] = {"maxProperties": 0}
MOST_TOKENS = 400
SPECIAL = sorted({marker for form in FORMATS.values() for marker in form.markers} - {"[ARGS]"})


def tokenizer_with(special: bool):
    tokenizer = byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], None)
    if special:
        tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL})
        tokenizer.add_tokens([AddedToken("<think>", special=False), AddedToken("</think>", special=False)])
    return tokenizer


@pytest.fixture(scope="module", params=[True, False], ids=["special tokens", "text"])
def tokenizer(request):
    return tokenizer_with(request.param)


@pytest.fixture(scope="module")
def known(tokenizer):
    return constraint_tokenizer(tokenizer)


def id_of(tokenizer):
    return lambda marker: tokenizer.get_vocab().get(marker)


def constraint_of(tokenizer, known, name, rules, thoughts=None):
    return CallConstraint(name, rules, thoughts, known, id_of(tokenizer))


def said(tokenizer, constraint, seed, prefer=()):
    """Return what a random model says; it begins with the tokens `prefer`."""
    generator = torch.Generator().manual_seed(seed)
    vocabulary, wanted = len(tokenizer) + 7, list(prefer)
    answer: list[int] = []
    for _ in range(MOST_TOKENS):
        allowed = constraint.allowed(vocabulary)
        assert allowed.any()
        if wanted:
            token = wanted.pop(0)
            assert allowed[token], tokenizer.decode([*answer, token])
        else:
            token = int(torch.randn(vocabulary, generator=generator).masked_fill(~allowed, float("-inf")).argmax())
        constraint.accept(token)
        if token == tokenizer.eos_token_id:
            return text_of(tokenizer, answer)
        answer.append(token)
    raise AssertionError(f"the answer never ended: {tokenizer.decode(answer)}")


def begun(tokenizer, name):
    """Return the beginning of a call where the format lets a model think first, which a random one never ends."""
    text = "<|channel|>commentary to=" if name == "harmony" else ""
    return tokenizer.encode(text, add_special_tokens=False)


def text_of(tokenizer, answer):
    stream = TextStream(tokenizer, [], hidden=frozenset())
    return "".join(map(stream.push, answer)) + stream.finish()


def read(name, text):
    reader = AnswerReader(AnswerForm(tool_format=name), list(SCHEMAS), {key: own or {} for key, own in SCHEMAS.items()})
    content, calls = "", []
    for part in reader.push(text) + reader.end():
        match part:
            case Content(words):
                content += words
            case CallBegun(_, _, called):
                calls.append([called, ""])
            case CallArguments(index, words):
                calls[index][1] += words
    return content, [(called, json.loads(arguments)) for called, arguments in calls]


def assert_valid(calls):
    for called, arguments in calls:
        jsonschema.validate(arguments, SCHEMAS[called] or NOTHING)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", FORMATS)
def test_required_calls(tokenizer, known, name, seed):
    rules = CallRules(SCHEMAS, required=True, parallel=True)
    content, calls = read(
        name, said(tokenizer, constraint_of(tokenizer, known, name, rules), seed, begun(tokenizer, name))
    )
    assert content == ""
    assert calls
    assert_valid(calls)


@pytest.mark.parametrize("name", FORMATS)
def test_one_named_function(tokenizer, known, name):
    rules = CallRules({"look": LOOK}, required=True, parallel=False)
    for seed in range(3):
        constraint = constraint_of(tokenizer, known, name, rules)
        content, calls = read(name, said(tokenizer, constraint, seed, begun(tokenizer, name)))
        assert content == ""
        assert [called for called, _ in calls] == ["look"]
        assert_valid(calls)


BEGINNINGS = {
    "hermes": "Well. <tool_call>",
    "qwen3_coder": "Well. <tool_call>",
    "glm": "Well. <tool_call>",
    "llama_json": "{",
    "pythonic": "[",
    "lfm2": "Well. <|tool_call_start|>",
    "mistral": "Well. [TOOL_CALLS]",
    "mistral_named": "Well. [TOOL_CALLS]",
    "granite": "Well. <|tool_call|>",
    "phi4": "Well. <|tool_call|>",
    "deepseek": "Well. <｜tool▁calls▁begin｜>",  # noqa: RUF001
    "harmony": "<|channel|>commentary to=",
}


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("name", FORMATS)
def test_a_call_that_has_begun_keeps_to_its_schema(tokenizer, known, name, parallel):
    rules = CallRules(SCHEMAS, required=False, parallel=parallel)
    ids = tokenizer.encode(BEGINNINGS[name], add_special_tokens=False)
    text = said(tokenizer, constraint_of(tokenizer, known, name, rules), 1, ids)
    _, calls = read(name, text)
    assert calls
    if not parallel:
        assert len(calls) == 1
    assert_valid(calls)


@pytest.mark.parametrize("name", FORMATS)
def test_text_passes(tokenizer, known, name):
    rules = CallRules(SCHEMAS, required=False, parallel=True)
    words = "It is (on) the table."
    if name == "harmony":
        words = f"<|channel|>final<|message|>{words}"
    ids = [*tokenizer.encode(words, add_special_tokens=False), tokenizer.eos_token_id]
    assert said(tokenizer, constraint_of(tokenizer, known, name, rules), 0, ids) == words


@pytest.mark.parametrize(("by_prompt", "words"), [(True, "Hm."), (False, "<think>Hm.")])
def test_reasoning_comes_before_calls(tokenizer, known, by_prompt, words):
    rules = CallRules({"look": LOOK}, required=True, parallel=False)
    constraint = constraint_of(tokenizer, known, "hermes", rules, Thoughts("<think>", begun=by_prompt))
    text = said(tokenizer, constraint, 0, tokenizer.encode(f"{words}</think>\n\n", add_special_tokens=False))
    form = AnswerForm(reasoning="<think>", begins_in_reasoning=by_prompt)
    reader = AnswerReader(form, ["look"])
    parts = reader.push(text) + reader.end()
    assert parts[0] == Reasoning("Hm.")
    assert reader.calls == 1


def test_any_object(tokenizer, known):
    rules = CallRules({"look": ANY_OBJECT}, required=True, parallel=False)
    call = '<tool_call>\n{"name": "look", "arguments": {"x": [1, "a"]}}\n</tool_call>'
    ids = [*tokenizer.encode(call, add_special_tokens=False), tokenizer.eos_token_id]
    assert said(tokenizer, constraint_of(tokenizer, known, "hermes", rules), 0, ids) == call


PATTERN = {"type": "object", "properties": {"at": {"type": "string", "pattern": "^a+$"}}, "required": ["at"]}


@pytest.mark.parametrize(
    ("name", "schema", "sentence"),
    [
        ("hermes", {"type": "object", "properties": {"a": {"type": "thing"}}}, "look can't be held"),
        ("qwen3_coder", PATTERN, "'at' has a pattern"),
        ("pythonic", {"type": "object", "properties": {"a b": {}}}, "'a b' can't be written"),
        ("glm", {"type": "object", "anyOf": [{"required": ["a"]}]}, "an object with properties"),
    ],
)
def test_what_can_not_be_followed_is_refused(tokenizer, known, name, schema, sentence):
    with pytest.raises(CallsError, match=sentence):
        constraint_of(tokenizer, known, name, CallRules({"look": schema}, required=True, parallel=True))


@pytest.mark.parametrize("name", ["hermes", "pythonic"])
def test_a_pattern_is_kept_where_arguments_are_json(tokenizer, known, name):
    rules = CallRules({"look": PATTERN}, required=True, parallel=False)
    _, ((_, arguments),) = read(name, said(tokenizer, constraint_of(tokenizer, known, name, rules), 0))
    jsonschema.validate(arguments, PATTERN)
