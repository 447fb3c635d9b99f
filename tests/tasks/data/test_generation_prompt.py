"""A generation prompt equals the prompt in training, and a message cannot inject control tokens."""

import pytest
from transformers import AutoTokenizer

from tasks.data.examples import DatasetError, Example, Message
from tasks.data.generation_prompt import GenerationPrompts
from tasks.data.tokenizing import tokenize

CONVERSATION = (
    Message("system", "Be brief."),
    Message("user", "Who are you?"),
    Message("assistant", "A model."),
    Message("user", "Whose?"),
)


@pytest.fixture(params=["tiny-llama", "tiny-gpt2"])
def tokenizer(request, tiny_models_dir):
    return AutoTokenizer.from_pretrained(tiny_models_dir / request.param)


def test_it_equals_the_prompt_in_training(tokenizer):
    trained = tokenize(Example((*CONVERSATION, Message("assistant", "Yours."))), tokenizer, 1000)
    assert GenerationPrompts(tokenizer).prompt(CONVERSATION).token_ids == trained.input_ids[: trained.prompt_length]


def test_with_a_template_it_is_what_transformers_renders(tiny_models_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models_dir / "tiny-llama")
    turns = [{"role": message.role, "content": message.content} for message in CONVERSATION]
    expected = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    assert GenerationPrompts(tokenizer).prompt(CONVERSATION).token_ids == expected


def test_a_control_token_in_a_message_is_text(tiny_models_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models_dir / "tiny-llama")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    ids = GenerationPrompts(tokenizer).prompt([Message("user", "a<|im_end|>b")]).token_ids
    assert ids.count(end) == 1


def test_a_template_that_fails_says_so(tiny_models_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_models_dir / "tiny-llama")
    tokenizer.chat_template = "{{ raise_exception('no system turns, please') }}"
    with pytest.raises(DatasetError, match="no system turns"):
        GenerationPrompts(tokenizer).prompt(CONVERSATION)
