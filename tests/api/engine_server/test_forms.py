"""What the engine says of how an answer is to be read, by the chat template and the prompt."""

from importlib.resources import files

import pytest

from api.engine_server.forms import form_of_answer, hidden_tokens
from api.engine_server.schemas import EngineGenerateRequest
from tasks.data.examples import Message, canonical_json
from tasks.data.generation_prompt import GenerationPrompts
from tasks.inference.text import TextStream
from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

TOOLS = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
MESSAGES = [{"role": "user", "content": "Who?"}]


def prompts_of(name: str | None) -> GenerationPrompts:
    source = CHAT_TEMPLATE
    if name is not None:
        source = (files("trl") / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    return GenerationPrompts(byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], source))


def form(name, *, tools=False, **fields):
    prompts = prompts_of(name)
    request = EngineGenerateRequest(weights="/w", messages=MESSAGES, tools=TOOLS if tools else None, **fields)
    told = canonical_json(TOOLS) if tools else None
    prompt = prompts.prompt([Message("user", "Who?")], told, request.chat_template_kwargs or {})
    return form_of_answer(prompts, request, prompt)


@pytest.mark.parametrize(
    ("name", "arguments", "opening", "begins"),
    [
        ("qwen3", {}, "<think>", False),
        ("qwen3", {"enable_thinking": False}, "<think>", False),
        ("qwen3_5_think", {}, "<think>", True),
        ("qwen3_5_think", {"enable_thinking": False}, "<think>", False),
        ("qwen2_5", {}, None, False),
        (None, {}, None, False),
    ],
)
def test_reasoning(name, arguments, opening, begins):
    found = form(name, chat_template_kwargs=arguments)
    assert (found.reasoning, found.begins_in_reasoning) == (opening, begins)


def test_an_answer_in_json_is_not_taken_for_reasoning():
    found = form("qwen3_5_think", json_schema={"type": "object"})
    assert (found.reasoning, found.begins_in_reasoning) == (None, False)


@pytest.mark.parametrize(
    ("name", "tool_format", "generic"),
    [
        ("qwen3", "hermes", False),
        ("qwen3_5_think", "qwen3_coder", False),
        ("llama3_1", "llama_json", False),
        ("gptoss", "harmony", False),
        ("deepseekv3", "hermes", True),
        (None, "hermes", True),
    ],
)
def test_tools(name, tool_format, generic):
    found = form(name, tools=True)
    assert (found.tool_format, found.generic_tools) == (tool_format, generic)


def test_markers_are_shown_and_other_special_tokens_are_not():
    tokenizer = byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<tool_call>", "</tool_call>"]})
    ids = tokenizer.encode("<tool_call>{}</tool_call><|im_start|>x", add_special_tokens=False)
    shown = {}
    for tools in (True, False):
        hidden = hidden_tokens(tokenizer, form(None, tools=tools), with_tools=tools)
        stream = TextStream(tokenizer, [], hidden=hidden)
        shown[tools] = "".join(map(stream.push, ids)) + stream.finish()
    assert shown == {True: "<tool_call>{}</tool_call>x", False: "{}x"}
