"""A chat format that a job or a model is given: by name, by text, with arguments; refused where it can't be had."""

import hashlib

import pytest
from transformers import AutoTokenizer

from configs.chat_format import ChatFormat
from tasks.data.chosen_format import choose_format, named_templates, saved_template, try_format, use_template
from tasks.data.examples import DatasetError, Example, Message
from tasks.data.fingerprint import tokenizer_content
from tasks.data.reading.turns import read_turns
from tasks.data.template import Renderer, turn_end_ids
from tasks.data.tokenizers import set_adds_eos

ASKED = (Message("user", "What is it?"), Message("assistant", "A lamp."))
SYSTEM = (Message("system", "Be brief."), *ASKED)
ROUNDS = (*ASKED, Message("user", "And now?"), Message("assistant", "A cup."))
TOOLS = '[{"function":{"name":"look","parameters":{"type":"object"}},"type":"function"}]'
CALLING = read_turns(
    [
        {"role": "user", "content": "What is there?"},
        {
            "role": "assistant",
            "reasoning_content": "I must look.",
            "tool_calls": [
                {"function": {"name": "look", "arguments": '{"at": "table"}'}},
                {"function": {"name": "look", "arguments": {"at": "shelf"}}},
            ],
        },
        {"role": "tool", "content": "a lamp"},
        {"role": "assistant", "content": "A lamp."},
    ],
    "messages",
)
DIGESTS = {
    "alpaca": "5d2855f4f5d163a3",
    "chatml": "9303d6513c1a3be4",
    "gemma": "bdb388403e691f96",
    "llama-3": "280e74e798ffffb0",
    "mistral": "e5d7c71f0ff7f47d",
    "plain": "31ad085d4a443c6a",
    "vicuna": "f197ecb065af4754",
}
THINKING = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% if enable_thinking is defined and not enable_thinking %}"
    "<think></think>{% endif %}{% endif %}{% if style %}{{ style }}{% endif %}"
)


@pytest.fixture
def tokenizer(tiny_llama_dir):
    """Return a tokenizer that may be changed."""
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture
def without_template(tokenizer):
    tokenizer.chat_template = None
    return tokenizer


def with_tokens(tokenizer, name: str):
    """Give the tokenizer the tokens that a named template's turns are made of."""
    tokens = {
        "llama-3": ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "gemma": ["<start_of_turn>", "<end_of_turn>"],
        "chatml": ["<|im_start|>", "<|im_end|>"],
    }.get(name, [])
    tokenizer.add_special_tokens({"additional_special_tokens": tokens})
    return tokenizer


def learned(tokenizer, example: Example) -> list[str]:
    return [segment.text for segment in Renderer(tokenizer).render(example).segments if segment.learned]


def test_the_templates_never_change():
    # A paused job goes on with the text of today; a better one gets another name.
    digests = {name: hashlib.sha256(text.encode()).hexdigest()[:16] for name, text in named_templates().items()}
    assert digests == DIGESTS


@pytest.mark.parametrize("name", sorted(DIGESTS))
@pytest.mark.parametrize("turns", [ASKED, SYSTEM, ROUNDS], ids=["asked", "system", "rounds"])
def test_a_named_template_teaches_every_answer_and_its_end(tokenizer, name, turns):
    choose_format(with_tokens(tokenizer, name), ChatFormat(chat_template=name))
    texts = learned(tokenizer, Example(turns))
    answers = [turn.content for turn in turns if turn.role == "assistant"]
    assert [text.strip().startswith(answer) for text, answer in zip(texts, answers, strict=True)] == [True] * len(texts)
    (end,) = turn_end_ids(tokenizer)
    assert all(tokenizer(text, add_special_tokens=False)["input_ids"][-1] == end for text in texts)
    assert (
        Renderer(tokenizer)
        .render(Example(turns))
        .text.startswith(Renderer(tokenizer).prompt(turns[:-1]).segments[0].text.rstrip())
    )


@pytest.mark.parametrize("name", ["chatml", "plain"])
def test_calls_and_reasoning_are_learned(tokenizer, name):
    choose_format(with_tokens(tokenizer, name), ChatFormat(chat_template=name))
    call, answer = learned(tokenizer, Example(CALLING, tools=TOOLS))
    assert "I must look." in call
    assert '{"name": "look", "arguments": {"at": "table"}}' in call
    assert '{"name": "look", "arguments": {"at": "shelf"}}' in call
    assert "A lamp." in answer
    assert '"parameters": {"type": "object"}' in Renderer(tokenizer).render(Example(CALLING, tools=TOOLS)).text


@pytest.mark.parametrize("name", ["alpaca", "gemma", "mistral", "vicuna"])
def test_what_a_template_has_no_form_for_is_an_error(tokenizer, name):
    choose_format(with_tokens(tokenizer, name), ChatFormat(chat_template=name))
    with pytest.raises(DatasetError, match=r"no form for|leaves out"):
        Renderer(tokenizer).render(Example(CALLING[:2], tools=TOOLS))
    with pytest.raises(DatasetError, match="tools"):
        Renderer(tokenizer).render(Example(ASKED, tools=TOOLS))


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"chat_template": "chatlm"}, "there is no chat_template 'chatlm'; .* alpaca, chatml, .*plain"),
        ({"chat_template": "gemma"}, "<start_of_turn> and <end_of_turn>, which the model's tokenizer does not have"),
        ({"chat_template": "{% for %}"}, "can't be read as a Jinja template"),
        ({"chat_template": THINKING, "chat_template_kwargs": {"thinking": False}}, "'thinking'; it reads enable_think"),
        ({"chat_template_kwargs": {"messages": []}}, "reads no argument 'messages'"),
    ],
)
def test_what_cannot_be_had_is_refused(tokenizer, chosen, sentence):
    with pytest.raises(DatasetError, match=sentence):
        choose_format(tokenizer, ChatFormat(**chosen))


def test_arguments_need_a_template(without_template):
    with pytest.raises(DatasetError, match="which the model does not have"):
        choose_format(without_template, ChatFormat(chat_template_kwargs={"enable_thinking": False}))


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a \"quoted\" 'text'\n}} %} {{ {%", "a \"quoted\" 'text'\n}} %} {{ {%"),
        ("größer 🙂", "größer 🙂"),
        (True, "True"),
        (2.5, "2.5"),
        ([1, None, {"a": "b"}], "[1, None, {'a': 'b'}]"),
    ],
)
def test_an_argument_is_what_the_template_reads(tokenizer, value, shown):
    choose_format(tokenizer, ChatFormat(chat_template=THINKING, chat_template_kwargs={"style": value}))
    assert tokenizer.apply_chat_template([{"role": "user", "content": "q"}], tokenize=False).endswith(shown)


def test_an_argument_is_a_default_that_a_request_may_change(tokenizer):
    choose_format(tokenizer, ChatFormat(chat_template=THINKING, chat_template_kwargs={"enable_thinking": False}))
    renderer = Renderer(tokenizer)
    assert renderer.prompt(ASKED[:1]).text.endswith("<think></think>")
    assert not renderer.prompt(ASKED[:1], arguments={"enable_thinking": True}).text.endswith("<think></think>")
    # What is learned follows what the model is given before it answers.
    assert "<think></think>" in renderer.render(Example(ASKED)).segments[0].text
    assert learned(tokenizer, Example(ASKED)) == [f"A lamp.{tokenizer.eos_token}"]


@pytest.mark.parametrize("beginning", ["\n", "  ", "", "{# c #}\n", "  {% if true %}x{% endif %}"])
def test_arguments_change_nothing_else(tokenizer, beginning):
    text = beginning + THINKING
    choose_format(tokenizer, ChatFormat(chat_template=text))
    turns = [{"role": "user", "content": "q"}]
    plain = tokenizer.apply_chat_template(turns, tokenize=False)
    choose_format(tokenizer, ChatFormat(chat_template_kwargs={"enable_thinking": True}))
    assert tokenizer.apply_chat_template(turns, tokenize=False) == plain


def test_it_is_saved_with_the_tokenizer(tokenizer, tmp_path):
    choose_format(tokenizer, ChatFormat(chat_template=THINKING, chat_template_kwargs={"enable_thinking": False}))
    set_adds_eos(tokenizer, False)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert saved_template(tmp_path) == tokenizer.chat_template == again.chat_template
    assert tokenizer_content(again) == tokenizer_content(tokenizer)
    assert learned(again, Example(text="a text")) == learned(tokenizer, Example(text="a text"))


def test_a_model_with_several_templates_keeps_them(tokenizer):
    tokenizer.chat_template = {"default": THINKING, "tool_use": THINKING + "t"}
    use_template(tokenizer, THINKING)
    assert set(tokenizer.chat_template) == {"default", "tool_use"}
    choose_format(tokenizer, ChatFormat(chat_template_kwargs={"enable_thinking": False}))
    assert all(text.startswith("{%- if enable_thinking is not") for text in tokenizer.chat_template.values())
    choose_format(tokenizer, ChatFormat(chat_template="tool_use"))
    assert tokenizer.chat_template.endswith("t")


@pytest.mark.parametrize(
    ("example", "open_end"),
    [(Example(text="a text"), "a text"), (Example(ASKED), "A lamp.")],
    ids=["text", "answer"],
)
def test_texts_can_be_left_open(without_template, example, open_end):
    ended = Renderer(without_template).render(example).text
    content = tokenizer_content(without_template)
    set_adds_eos(without_template, False)
    assert Renderer(without_template).render(example).text.endswith(open_end)
    assert ended.endswith(open_end + without_template.eos_token)
    assert tokenizer_content(without_template) != content


def test_a_template_that_writes_no_conversation_is_refused(tokenizer):
    choose_format(tokenizer, ChatFormat(chat_template="{% for message in messages %}{{ message['role'] }}{% endfor %}"))
    with pytest.raises(DatasetError):
        try_format(tokenizer)
    choose_format(tokenizer, ChatFormat(chat_template=THINKING))
    try_format(tokenizer)
