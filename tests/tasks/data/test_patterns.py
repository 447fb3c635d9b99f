import pytest
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoTokenizer

from tasks.data.examples import Example
from tasks.data.template import render
from tasks.data.tokenizing import tokenize

QUESTION = Example.question("Who are you?", "A fox 🦊.")


@pytest.fixture
def own_tokenizer(tiny_llama_dir):
    """A tokenizer that a test may change."""
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def known_beginnings(tokenizer) -> list[str]:
    return [segment.text[: segment.tokenized] for segment in render(QUESTION, tokenizer).segments]


def test_what_no_content_can_change_is_tokenized_once(chat_tokenizer):
    (prompt, answer) = render(QUESTION, chat_tokenizer).segments
    assert prompt.text[: prompt.tokenized] == "<|im_start|>"
    assert list(prompt.token_ids) == chat_tokenizer("<|im_start|>").input_ids
    assert (answer.token_ids, answer.tokenized) == ((), 0)


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
