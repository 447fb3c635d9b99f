"""The format of calls and reasoning is told from the chat templates of real models."""

from importlib.resources import files

import pytest

import configs.chat_templates
from configs.tool_formats import FALLBACK, FORMATS, REASONING, call_format_of, reasoning_of

TRL = files("trl") / "chat_templates"
OURS = files(configs.chat_templates)
REAL = {
    "deepseek_r1_distill": ("deepseek", "<think>"),
    "deepseekv3": ("deepseek", "<think>"),
    "gemma3": (FALLBACK, None),
    "gemma4": (FALLBACK, "<|channel>thought"),
    "glm4moe": ("glm", "<think>"),
    "gptoss": ("harmony", None),
    "lfm2": ("lfm2", None),
    "lfm2_2_5": ("lfm2", "<think>"),
    "llama3": (FALLBACK, None),
    "llama3_1": ("llama_json", None),
    "llama3_2": ("llama_json", None),
    "nemotron_3_nano": ("qwen3_coder", "<think>"),
    "qwen2_5": ("hermes", None),
    "qwen3": ("hermes", "<think>"),
    "qwen3_5_think": ("qwen3_coder", "<think>"),
    "qwen3_8": ("qwen3_coder", "<think>"),
    "qwen3_instruct_2507": ("hermes", None),
}
PLATFORM = {
    "plain": ("hermes", "<think>"),
    "chatml": ("hermes", "<think>"),
    "llama-3": ("llama_json", None),
    "gemma": (FALLBACK, None),
    "mistral": (FALLBACK, None),
}
WRITTEN = {
    "mistral": "{{ '[TOOL_CALLS] [' }}{{ '{\"name\": ' + call.name }}",
    "mistral_named": "{{ '[TOOL_CALLS]' + call.name + '[ARGS]' + call.arguments }}",
    "granite": "{{ '<|start_of_role|>assistant<|end_of_role|><|tool_call|>' + message['content'] }}",
    "phi4": "{{ '<|tool_call|>[' + calls + ']<|/tool_call|>' }}",
    "pythonic": "You SHOULD put it in the format of [func_name1(params_name1=params_value1), func_name2(params)]",
}
"""Of families whose templates are in no package here: how theirs write a call."""


@pytest.mark.parametrize("name", REAL)
def test_real_templates(name):
    source = (TRL / f"{name}.jinja").read_text(encoding="utf-8")
    assert (call_format_of(source), reasoning_of(source)) == REAL[name]


@pytest.mark.parametrize("name", PLATFORM)
def test_the_platforms_own_templates(name):
    source = (OURS / f"{name}.jinja").read_text(encoding="utf-8")
    assert (call_format_of(source), reasoning_of(source)) == PLATFORM[name]


@pytest.mark.parametrize("name", WRITTEN)
def test_templates_that_write_so(name):
    assert call_format_of(WRITTEN[name]) == name


def test_every_format_is_told_from_some_template():
    told = {form for form, _ in (REAL | PLATFORM).values()} | set(WRITTEN)
    assert told == set(FORMATS)


def test_what_knows_neither():
    assert call_format_of("") == FALLBACK
    assert reasoning_of("") is None
    assert all(opening != closing for opening, closing in REASONING.items())
