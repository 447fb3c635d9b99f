"""Tools and calls reach every model: by its own template, or in words where that has no place for them."""

import json

import pytest

from tasks.data.examples import DatasetError, Message, canonical_json
from tasks.data.generation_prompt import GenerationPrompts
from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

TOOLS = canonical_json([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
CALLS = [
    {"id": f"call_{city}", "type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
    for city in ("Oslo", "Rome")
]
CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", "Rain?"),
    Message("assistant", None, tool_calls=canonical_json(CALLS)),
    Message("tool", "3 C", tool_call_id="call_Oslo"),
    Message("tool", "30 C", tool_call_id="call_Rome"),
    Message("user", "And now?"),
)
NO_SYSTEM = CHAT_TEMPLATE.replace(
    "{{ '<|im_start|>'",
    "{% if message['role'] == 'system' %}{{ raise_exception('no system, please') }}{% endif %}{{ '<|im_start|>'",
    1,
)
IGNORES_SYSTEM = "{% set messages = messages | rejectattr('role', 'equalto', 'system') | list %}" + CHAT_TEMPLATE
WITH_TOOLS = "{{ tools | tojson if tools else '' }}" + CHAT_TEMPLATE.replace(
    "message['content']",
    "(message['content'] or '') + (message['tool_calls'] | tojson if message['tool_calls'] else '')",
)
ONE_CALL = WITH_TOOLS.replace(
    "{{ '<|im_start|>'",
    "{% if message['tool_calls'] and message['tool_calls'] | length > 1 %}{{ raise_exception('one') }}{% endif %}"
    "{{ '<|im_start|>'",
    1,
)
NO_CALLS = "{{ tools | tojson if tools else '' }}" + CHAT_TEMPLATE.replace(
    "message['content']", "(message['content'] or '')"
)
NINE = WITH_TOOLS.replace(
    "{{ '<|im_start|>'",
    "{% for call in message['tool_calls'] or [] %}{% if call['id'] | length != 9 %}{{ raise_exception('nine') }}"
    "{% endif %}{% endfor %}{# [TOOL_CALLS] #}{{ '<|im_start|>'",
    1,
)


def prompts(template: str | None) -> GenerationPrompts:
    return GenerationPrompts(byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], template))


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, NO_SYSTEM, IGNORES_SYSTEM, None])
def test_a_template_without_a_place_for_tools(template):
    of_model = prompts(template)
    prompt = of_model.prompt(CONVERSATION, TOOLS)
    assert not of_model.writes_tools
    assert prompt.in_words
    for words in ("Be brief.", "<tools>\n", '"parameters"', "Rain?", "And now?"):
        assert prompt.text.count(words) == 1
    for city, result in (("Oslo", "3 C"), ("Rome", "30 C")):
        call = json.dumps({"name": "weather", "arguments": {"city": city}})
        assert f"<tool_call>\n{call}\n</tool_call>" in prompt.text
        assert f"<tool_response>\n{result}\n</tool_response>" in prompt.text
    if template is not None:
        roles = [turn.split("\n")[0] for turn in prompt.text.split("<|im_start|>")[1:]]
        assert roles[-4:] == ["user", "assistant", "user", "assistant"]


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, None])
def test_without_tools_a_conversation_is_written_as_ever(template):
    prompt = prompts(template).prompt(CONVERSATION[:2])
    assert not prompt.in_words
    assert "tool" not in prompt.text


def test_earlier_calls_are_told_in_words_without_tools_too():
    prompt = prompts(CHAT_TEMPLATE).prompt(CONVERSATION)
    assert prompt.in_words
    assert "<tools>" not in prompt.text
    assert "<tool_call>" in prompt.text


def test_a_template_with_a_place_for_tools_writes_them():
    of_model = prompts(WITH_TOOLS)
    prompt = of_model.prompt(CONVERSATION, TOOLS)
    assert of_model.writes_tools
    assert not prompt.in_words
    assert "<tools>" not in prompt.text
    assert "call_Oslo" in prompt.text


def test_a_template_that_knows_one_call_in_a_turn_gets_one_after_the_other():
    prompt = prompts(ONE_CALL).prompt(CONVERSATION, TOOLS)
    assert not prompt.in_words
    order = [prompt.text.index(words) for words in ("call_Oslo", "3 C", "call_Rome", "30 C")]
    assert order == sorted(order)


def test_a_template_that_writes_tools_but_no_calls_gets_these_in_words():
    prompt = prompts(NO_CALLS).prompt(CONVERSATION, TOOLS)
    assert prompt.in_words
    assert '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}' in prompt.text


def test_mistrals_templates_get_ids_of_nine_characters_that_match():
    of_model = prompts(NINE)
    prompt = of_model.prompt(CONVERSATION, TOOLS)
    assert not prompt.in_words
    assert "call_Oslo" not in prompt.text
    assert prompt.text == of_model.prompt(CONVERSATION, TOOLS).text
    nine = [call | {"id": f"call{number:05}"} for number, call in enumerate(CALLS)]
    kept = of_model.prompt((CONVERSATION[1], Message("assistant", "", tool_calls=canonical_json(nine))), TOOLS)
    assert "call00000" in kept.text


def test_what_no_form_can_render_is_told_as_it_was():
    with pytest.raises(DatasetError, match="never"):
        prompts("{{ raise_exception('never') }}").prompt(CONVERSATION, TOOLS)
