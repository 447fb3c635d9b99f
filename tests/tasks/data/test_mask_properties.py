"""Whatever rows go in: what is learned is the answers, all of them and nothing else."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from tasks.data.examples import Example, Message
from tasks.data.template import Renderer
from tasks.data.tokenizing import Encoder, TokenizedExample

MARKERS = [
    "<|im_start|>",
    "<|im_end|>",
    "<|im_end|>\n",
    "<|im_start|>assistant\n",
    "<|im_start|>user\n",
    "<|endoftext|>",
    "assistant",
    "user",
    "[another answer]",
    "{{ messages }}",
    "\n",
    " ",
    "\u2028",
    "🦊",
]
KEPT_FROM_ROWS = "\U000f0000\U000f0001"
"""Private characters that mark a control token which a row spells; a row that has both is refused."""
words = st.text(st.characters(codec="utf-8", exclude_characters=KEPT_FROM_ROWS), max_size=6)
texts = st.lists(st.sampled_from(MARKERS) | words, max_size=4).map("".join)
LOOKS_INTO_CONTENTS = (
    "{% for m in messages %}{% set content = m['content'] %}{{ '<|im_start|>' + m['role'] + '\n' + content "
    "+ '<|im_end|>' + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Writes the same as the tiny model's template, but is rendered for each row."""
OPENS_OTHERWISE = LOOKS_INTO_CONTENTS.replace("assistant\n' }}{% endif", "assistant\n[reply]' }}{% endif")


@st.composite
def conversations(draw) -> Example:
    roles = draw(st.lists(st.sampled_from(["system", "user", "assistant"]), max_size=4))
    messages = [Message(role, draw(texts), learned=draw(st.booleans())) for role in roles]
    last = Message("assistant", draw(texts), learned=not any(message.is_target for message in messages))
    return Example((*messages, last))


@pytest.fixture(scope="module")
def renderers(tiny_llama_dir, chat_tokenizer, plain_tokenizer):
    """Renderers with their encoders and tokenizers, by name."""
    tokenizers = {"copied": chat_tokenizer, "plain": plain_tokenizer}
    for name, template in (("rendered", LOOKS_INTO_CONTENTS), ("opened", OPENS_OTHERWISE)):
        tokenizers[name] = AutoTokenizer.from_pretrained(tiny_llama_dir)
        tokenizers[name].chat_template = template
    return {name: (Renderer(tokenizer), Encoder(tokenizer), tokenizer) for name, tokenizer in tokenizers.items()}


def tokenized(made, example: Example) -> TokenizedExample:
    renderer, encoder, _ = made
    (row,) = encoder.encode([renderer.render(example)]).cut_rows(10**6)
    return row


def spans(row: TokenizedExample) -> list[tuple[list[int], bool]]:
    """The row's token ids in runs of labels and of no labels."""
    runs, done = [], 0
    for start, end in (*row.learned_spans, (len(row.input_ids), len(row.input_ids))):
        runs += [(row.input_ids[done:start], False), (row.input_ids[start:end], True)]
        done = end
    return [(ids, learned) for ids, learned in runs if ids]


def expected_chat(example: Example, opening: str = "") -> list[tuple[str, bool]]:
    """The conversation in the tiny model's format, written down without a template."""
    segments, before = [], ""
    for place, message in enumerate(example.messages):
        before += f"<|im_start|>{message.role}\n"
        if message.is_target:
            # Before the first turn there is nothing to answer yet, so no opening for generation.
            segments += [(before + (opening if place else ""), False), (message.content + "<|im_end|>", True)]
            before = "\n"
        else:
            before += message.content + "<|im_end|>\n"
    return [*segments, (before.rstrip(), False)] if before.rstrip() else segments


def expected_plain(example: Example) -> list[tuple[str, bool]]:
    segments, before = [], ""
    for place, message in enumerate(example.messages):
        text = message.content + ("<|endoftext|>" if message.role == "assistant" else "")
        before += "\n" if place else ""
        if message.is_target:
            segments += [(before, False), (text, True)]
            before = ""
        else:
            before += text
    return [segment for segment in [*segments, (before, False)] if segment[0]]


@pytest.mark.parametrize("name", ["copied", "rendered", "opened", "plain"])
@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(example=conversations())
def test_learned_tokens_are_the_answers_and_nothing_else(renderers, name, example):
    *_, tokenizer = renderers[name]
    if name == "plain":
        expected = expected_plain(example)
        controls = {"<|endoftext|>": sum(message.role == "assistant" for message in example.messages)}
    else:
        expected = expected_chat(example, opening="[reply]" if name == "opened" else "")
        controls = dict.fromkeys(["<|im_start|>", "<|im_end|>"], len(example.messages))
    row = tokenized(renderers[name], example)
    assert [(tokenizer.decode(ids), learned) for ids, learned in spans(row)] == expected
    labels = [token if learned else -100 for ids, learned in spans(row) for token in ids]
    assert row.labels == labels
    # No word of a row has become a control token: there are as many as the format writes.
    for token, count in controls.items():
        assert row.input_ids.count(tokenizer.convert_tokens_to_ids(token)) == count


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(example=conversations())
def test_one_rendering_for_all_conversations_gives_what_rendering_each_gives(renderers, example):
    copied, rendered = (tokenized(renderers[name], example) for name in ("copied", "rendered"))
    assert copied == rendered
