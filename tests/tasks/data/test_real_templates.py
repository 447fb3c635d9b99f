"""What is learned in the formats of real models: `trl`'s chat templates, each with all kinds of conversations."""

# ruff: noqa: RUF001 - DeepSeek's tokens have another bar

import json
import re
from dataclasses import replace
from importlib.resources import files

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from tasks.data.examples import DatasetError, Example, Message
from tasks.data.template import Renderer, render
from tasks.data.tokenizing import tokenize

FOLDER = files("trl") / "chat_templates"
TEMPLATES = sorted(file.name.removesuffix(".jinja") for file in FOLDER.iterdir() if file.name.endswith(".jinja"))
ENDS = {
    "cohere": "<|END_OF_TURN_TOKEN|>",
    "deepseek": "<｜end▁of▁sentence｜>",
    "diffusion_gemma": "<turn|>",
    "gemma4": "<turn|>",
    "gemma": "<eos>",
    "glm": "<|endoftext|>",
    "gptoss": "<|return|>",
    "idefics": "<end_of_utterance>",
    "llama3": "<|eot_id|>",
    "llava": "</s>",
    "phi3": "<|endoftext|>",
    "smolvlm": "<end_of_utterance>",
}
"""The end-of-sequence token of each family; `<|im_end|>` of all others."""
SPECIAL = re.compile(
    r"<\|[a-zA-Z0-9_]+\|>|<｜[^<>｜]+｜>|<(?:start|end)_of_turn>|</?s>|\[/?INST\]|<end_of_utterance>|<turn\|>|<\|turn>"
    r"|<\|?channel\|?>|<\|?tool_call\|?>|<\|?tool_response\|?>"
)
"""What these templates' tokenizers know as special tokens."""

ROME, OSLO = ({"type": "function", "function": {"name": "weather", "arguments": {"city": c}}} for c in ("Rome", "Oslo"))
TOOLS = json.dumps(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "description": "How it is",
                "parameters": {"type": "object", "properties": {"city": {"type": "string", "description": "Where"}}},
            },
        }
    ]
)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str | None, *calls: dict, **more) -> Message:
    numbered = [call | {"id": f"call{number:05}"} for number, call in enumerate(calls)]
    return Message("assistant", content, tool_calls=json.dumps(numbered) if calls else None, **more)


def tool(content: str, number: int = 0) -> Message:
    return Message("tool", content, tool_call_id=f"call{number:05}", name="weather")


CONVERSATIONS = {
    "single": Example((user("Who?"), assistant("A fox."))),
    "multi-turn": Example((user("Who?"), assistant("A fox."), user("And you?"), assistant("A hen."))),
    "system": Example((Message("system", "Be kind."), user("Who?"), assistant("A fox."))),
    "tools": Example((user("Rain?"), assistant(None, OSLO), tool("3 C"), assistant("Cold.")), tools=TOOLS),
    "call last": Example((user("Rain?"), assistant(None, OSLO)), tools=TOOLS),
    "parallel": Example(
        (user("Rain?"), assistant(None, OSLO, ROME), tool("3 C"), tool("30 C", 1), assistant("Mixed.")), tools=TOOLS
    ),
    "reasoning": Example((user("2+2?"), assistant("4", reasoning="add them"))),
    "past reasoning": Example(
        (user("2+2?"), assistant("4", reasoning="add them"), user("3+3?"), assistant("6", reasoning="add those"))
    ),
    "empty": Example((user("Who?"), assistant(""), user("Hm?"), assistant("A fox."))),
    "only the last": Example((user("Who?"), assistant("A fox.", learned=False), user("And?"), assistant("A hen."))),
}
CANNOT = {
    # No place for these in the format; the sentence says so.
    "tools": "tool",
    "call last": "tool",
    "parallel": "tool",
    "reasoning": "reasoning_content",
    "past reasoning": "reasoning_content",
    "system": "System role not supported",
}


@pytest.fixture(scope="module")
def tokenizer_for(tiny_llama_dir):
    made: dict[str, PreTrainedTokenizerBase] = {}

    def make(name: str) -> PreTrainedTokenizerBase:
        if name not in made:
            source = (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")
            end = next((end for family, end in ENDS.items() if name.startswith(family)), "<|im_end|>")
            tokenizer = AutoTokenizer.from_pretrained(tiny_llama_dir)
            special = sorted({*SPECIAL.findall(source), end})
            tokenizer.add_special_tokens(
                {"additional_special_tokens": special, "eos_token": end, "bos_token": "<|begin|>"}
            )
            tokenizer.chat_template = source
            made[name] = tokenizer
        return made[name]

    return make


@pytest.mark.parametrize("kind", CONVERSATIONS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_what_is_learned_is_the_assistants_and_nothing_of_others(tokenizer_for, name, kind):
    tokenizer, example = tokenizer_for(name), CONVERSATIONS[kind]
    try:
        rendered = render(example, tokenizer)
    except DatasetError as error:
        assert kind in CANNOT, f"{name} can't write {kind}: {error}"  # noqa: PT017
        words = (CANNOT[kind], "cannot render", "drops", "marks nothing")
        assert any(word in str(error) for word in words), error  # noqa: PT017
        return
    learned = [segment.text for segment in rendered.segments if segment.learned]
    others = [segment.text for segment in rendered.segments if not segment.learned]
    targets = [message for message in example.messages if message.is_target]
    rest = [message for message in example.messages if not message.is_target]
    joined = "".join(learned)
    for message in targets:
        assert message.text in joined
        assert (message.reasoning or "") in joined
        for call in json.loads(message.tool_calls or "[]"):
            assert call["function"]["arguments"]["city"] in joined
    for message in rest:
        assert message.text not in joined
        assert message.text in "".join(others)
    assert "Rain?" not in joined
    if example.tools is None:
        # Each answer ends with a token that ends it, not with the words that follow.
        ends = Renderer(tokenizer).control_tokens
        assert all(ends.last_in(text.rstrip()) for text in learned[-1:]), learned
    row = tokenize(example, tokenizer, 4096)
    spans = [tokenizer.decode(row.input_ids[start:end]) for start, end in row.learned_spans]
    assert spans == learned


@pytest.mark.parametrize("kind", ["single", "multi-turn", "system", "tools", "parallel", "reasoning", "empty"])
@pytest.mark.parametrize("name", [name for name in TEMPLATES if f"{name}_training" in TEMPLATES])
def test_what_a_template_does_not_mark_is_what_its_marked_twin_does(tokenizer_for, name, kind):
    """`trl` has marked these templates by hand: an independent computation of what is generated."""
    tokenizer, example = tokenizer_for(name), CONVERSATIONS[kind]
    try:
        learned = "".join(segment.text for segment in render(example, tokenizer).segments if segment.learned)
    except DatasetError:
        return  # the other test asks for its sentence
    twin = tokenizer_for(f"{name}_training")
    turns = [message.for_template() for message in example.messages]
    turns = [turn | {"content": turn["content"] or ""} for turn in turns]
    if name.startswith(IN_PARTS):
        turns = [turn | {"content": [{"type": "text", "text": turn["content"]}]} for turn in turns]
    texts, spans = render_jinja_template(
        conversations=[turns],
        tools=json.loads(example.tools) if example.tools else None,
        chat_template=twin.chat_template,
        return_assistant_tokens_mask=True,
        **twin.special_tokens_map,
    )
    marked = "".join(texts[0][start:end] for start, end in spans[0])
    assert words_of(marked) == words_of(learned)


def words_of(text: str) -> str:
    """Without what the twins write otherwise on purpose: reasoning where there is none, ends, and headers of turns."""
    text = re.sub(r"<\|start\|>assistant|<\|turn>model", "", text)
    return re.sub(rf"{SPECIAL.pattern}|</?think>|\s", "", text)


IN_PARTS = ("idefics3", "llava", "smolvlm")
"""They take contents as lists of parts only."""


@pytest.mark.parametrize("name", ["llama3_2", "gptoss", "muse_glimmer"])
def test_tokens_do_not_depend_on_the_day_but_a_prompt_for_generation_has_it(tokenizer_for, name):
    tokenizer = tokenizer_for(name)
    days = ("26 Jul 2024", "2024-07-26")
    assert any(day in render(CONVERSATIONS["single"], tokenizer).text for day in days)
    prompt = Renderer(tokenizer).prompt([user("Who?")]).text
    assert not any(day in prompt for day in days)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_row_is_rendered_alike_by_itself_and_after_others_of_its_shape(tokenizer_for, name):
    renderer = Renderer(tokenizer_for(name))
    texts = ["A fox.", "A hen ", "t", "</think> x", "\n", "Oslo"]
    for example in [replaced(example, text) for text in texts for example in CONVERSATIONS.values()]:
        try:
            by_itself = render(example, tokenizer_for(name))
        except DatasetError as error:
            with pytest.raises(DatasetError, match=re.escape(str(error))):
                renderer.render(example)
            continue
        rendered = renderer.render(example)
        assert [(part.text, part.learned) for part in rendered.segments] == [
            (part.text, part.learned) for part in by_itself.segments
        ]


def replaced(example: Example, text: str) -> Example:
    """Return the conversation with another text in place of each content and argument."""
    messages = [
        replace(
            message,
            content=message.content and f"{message.content[:-1]}{text}",
            tool_calls=message.tool_calls and message.tool_calls.replace("Oslo", text.strip()),
        )
        for message in example.messages
    ]
    return replace(example, messages=tuple(messages))
