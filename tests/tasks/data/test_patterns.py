import json
from dataclasses import replace

import pytest
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer

from tasks.data.examples import DatasetError, Example, Message
from tasks.data.segments import id_bytes
from tasks.data.template import Renderer, render
from tasks.data.tokenizing import Encoder, tokenize

QUESTION = Example.question("Who are you?", "A fox 🦊.")


@pytest.fixture
def own_tokenizer(tiny_llama_dir):
    """A tokenizer that a test may change."""
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def segments_of_later_rows(tokenizer):
    """A shape's pattern is made when a second row has it."""
    renderer = Renderer(tokenizer)
    return [renderer.render(QUESTION) for _ in range(3)][-1].segments


def known_beginnings(tokenizer) -> list[str]:
    return [segment.text[: segment.tokenized] for segment in segments_of_later_rows(tokenizer)]


def test_what_no_content_can_change_is_tokenized_once(chat_tokenizer):
    (prompt, answer) = segments_of_later_rows(chat_tokenizer)
    assert prompt.text[: prompt.tokenized] == "<|im_start|>"
    assert prompt.token_ids == id_bytes(chat_tokenizer("<|im_start|>").input_ids)
    assert prompt.text[-prompt.ended :] == "<|im_end|>\n<|im_start|>assistant\n"
    assert (answer.token_ids, answer.tokenized) == (b"", 0)
    assert answer.end_ids == id_bytes(chat_tokenizer("<|im_end|>").input_ids)


def test_a_tokenizer_that_treats_the_first_word_otherwise_gets_full_texts(own_tokenizer):
    own_tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="_", prepend_scheme="first"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    assert known_beginnings(own_tokenizer) == ["", ""]


@pytest.mark.parametrize("option", ["rstrip", "single_word"])
def test_a_token_that_depends_on_what_follows_it_is_no_border(own_tokenizer, option):
    own_tokenizer.add_tokens([AddedToken("<|begin|>", special=True, **{option: True})], special_tokens=True)
    own_tokenizer.chat_template = own_tokenizer.chat_template.replace("<|im_start|>", "<|begin|>")
    assert known_beginnings(own_tokenizer) == ["", ""]


def test_a_token_that_begins_a_longer_one_is_no_border(own_tokenizer):
    own_tokenizer.add_tokens(["<|im_start|>user\nZ"], special_tokens=True)
    assert known_beginnings(own_tokenizer) == ["", ""]
    example = Example.question("Z?", "yes")
    prompt = own_tokenizer(render(example, own_tokenizer).segments[0].text).input_ids
    row = tokenize(example, own_tokenizer, 512)
    assert row.input_ids[: row.prompt_length] == prompt


def known_ends(tokenizer) -> list[str]:
    return [segment.text[len(segment.text) - segment.ended :] for segment in segments_of_later_rows(tokenizer)]


@pytest.mark.parametrize(
    ("token", "options"),
    [
        ("<|end|>", {"lstrip": True}),
        ("<|end|>", {"single_word": True}),
        (".<|end|>", {}),
        ("Z<|e", {}),
        ("<|end|>\n", {"lstrip": True, "special": False}),
    ],
)
def test_a_token_that_what_stands_before_it_changes_is_no_border(own_tokenizer, token, options):
    own_tokenizer.chat_template = own_tokenizer.chat_template.replace("<|im_end|>", "<|end|>")
    own_tokenizer.add_tokens([AddedToken("<|end|>", special=True)], special_tokens=True)
    assert all("<|end|>" in end for end in known_ends(own_tokenizer))
    own_tokenizer.add_tokens([AddedToken(token, **{"special": True, "normalized": False} | options)])
    assert not any(end.startswith("<|end|>") for end in known_ends(own_tokenizer))
    renderer, encoder = Renderer(own_tokenizer), Encoder(own_tokenizer)
    for words in ("Who?", "a fox. \n", "Z", "Z ", "Z<|e"):
        for _ in range(3):
            rendered = renderer.render(Example.question(words, words))
            expected = [
                own_tokenizer(segment.text, add_special_tokens=False).input_ids for segment in rendered.segments
            ]
            assert encoder.encode([rendered]).token_ids.tolist() == [token for ids in expected for token in ids]


TEXTS = [
    *(
        "Who?",
        "t",
        " a",
        "a ",
        "\na\n",
        " ",
        "<think>x</think>y",
        "x</think>",
        "<",
        "[",
        "]",
        "None",
        "user",
        "ABC",
        "é 🦊",
    ),
    *("Reasoning STRENGTH", "long " * 9, "\U000f0000", "\U000f0002", "\U000f00020\U000f0002", '{"a": 1}', "Σ", "</a>"),
]
CALL = {"type": "function", "function": {"name": "find", "arguments": {"city": "Rome", "n": 3}}, "id": "call00000"}
TOOLS = json.dumps([{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}])


def conversations(text):
    user, call = (
        Message("user", "Who?"),
        CALL | {"function": {"name": "find", "arguments": {"city": text, "n": len(text)}}},
    )
    yield Example((Message("user", text), Message("assistant", "A fox.")))
    yield Example((user, Message("assistant", text)))
    yield Example((user, Message("assistant", "A fox.", learned=False), user, Message("assistant", text)))
    yield Example((user, Message("assistant", text), user, Message("assistant", "A hen.", learned=False)))
    yield Example((user, Message("assistant", "A fox.", reasoning=text), user, Message("assistant", text)))
    yield Example((user, Message("assistant", None, tool_calls=json.dumps([call]))), tools=TOOLS)
    result = Message("tool", text, tool_call_id="call00000", name="find")
    yield Example(
        (user, Message("assistant", None, tool_calls=json.dumps([CALL])), result, Message("assistant", "Hm."))
    )


LOOP = "{%% for m in messages %%}<|im_start|>{{ m.role }}\n%s<|im_end|>\n{%% endfor %%}%s"
OPENING = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKING = "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"


@pytest.mark.parametrize(
    "turn",
    [
        "{{ m.content }}",
        "{% for c in m.content %}{{ c.text }}{% endfor %}",
        "{{ m.content | trim }}",
        "{{ m['content'].strip('\n') }}",
        "{{ (' ' ~ m.content ~ ' ') | trim }}",
        "{{ 'none' if m.content is none else m.content }}",
        "{% if m.content == 'Who?' %}asked{% endif %}{{ m.content }}",
        "{% if m.content | length > 9 %}long {% endif %}{{ m.content }}",
        "{% if 'strength' in m.content | lower %}strong {% endif %}{{ m.content }}",
        "{{ m.content | upper }}",
        "{{ m.content[0] }}",
        "{{ m.content * 2 }}",
        "{{ m | tojson }}",
        "{{ [m.content, 'x'] | join('-') }}",
        "{% for c in m.content %}.{% endfor %}{{ m.content }}",
        "{% for c in m.content if c.type == 'image' %}<image>{% endfor %}{{ m.content }}",
        "{{ m.content.split('</think>')[-1].lstrip('\n') }}",
        "{{ (m.content + '</think>').split('</think>')[0] }}",
        "{% if loop.changed(m.content) %}{{ m.content }}{% endif %}",
        "{% set text %}{{ m.content }}{% endset %}{{ text }}{% filter trim %}{{ text }}{% endfilter %}",
        "{% macro said(x) %}{{ x | trim }}.{% endmacro %}{{ said(m.content) }}",
        "{% generation %}{{ m.content }}{% endgeneration %}",
        "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}",
        "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "({{ c.function.arguments | tojson }}){% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}",
        "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}",
        "{{ m.content or '' }}{% for c in m.tool_calls or [] %}{{ c.function.name }}"
        "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v if v is string else v | tojson }},{% endfor %}"
        "{% endfor %}{% for t in tools or [] %}{{ t.function.name }}"
        "{% for k in t.function.parameters %}{{ k }}{% endfor %}{% endfor %}",
    ],
)
@pytest.mark.parametrize("opening", [OPENING, THINKING], ids=["plain", "thinking"])
def test_a_row_is_rendered_alike_by_itself_and_after_others_of_its_shape(own_tokenizer, turn, opening):
    own_tokenizer.chat_template = LOOP % (turn, opening)
    renderer = Renderer(own_tokenizer)
    for example in [example for _ in range(2) for text in TEXTS for example in conversations(text)]:
        assert outcome(renderer, example) == outcome(Renderer(own_tokenizer), example)


def outcome(renderer, example):
    try:
        rendered = renderer.render(example)
    except DatasetError as error:
        return str(error)
    return [(segment.text, segment.learned) for segment in rendered.segments]


def test_a_pattern_that_turns_out_to_be_wrong_ends_the_work(own_tokenizer):
    own_tokenizer.chat_template = (
        "{% for message in messages %}{{ 'loud: ' if '!' in message['content'] }}{{ message['content'] }}"
        "{{ eos_token }}{% endfor %}"
    )
    renderer = Renderer(own_tokenizer)
    calm, loud = (Example.question(f"Who are you{end}", "A fox.") for end in ("?", "!"))
    for _ in range(3):
        renderer.render(calm)
    assert renderer.render(loud).text.startswith("loud: ")
    (known,) = renderer._patterns._known.values()
    # As if what the template asks about the words had not been noticed.
    known.patterns[:] = [replace(pattern, checks=()) for pattern in known.patterns[:1]]
    with pytest.raises(DatasetError, match="otherwise than rows of the same shape"):
        [renderer.render(loud) for _ in range(8)]
