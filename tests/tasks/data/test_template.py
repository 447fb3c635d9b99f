import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from tasks.data.examples import DatasetError, Example
from tasks.data.template import IGNORED_LABEL, RenderedExample, render, tokenize, tokenize_all

QUESTION = Example("instruction", "Who are you?", "A fox 🦊.")
TEXT = Example("text", "", "The quick brown fox")
LLAMA_3_LIKE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n\n' + (m['content'] | trim) + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
)
WITHOUT_END_OF_TURN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
THINKING = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: <think>\n' }}{% endif %}"
)


@pytest.fixture
def own_tokenizer(tiny_llama_dir):
    """A tokenizer that a test may change."""
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def test_chat_prompt_is_what_inference_sees_and_answer_ends_the_turn(chat_tokenizer):
    rendered = render(QUESTION, chat_tokenizer)
    assert rendered.prompt == "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert rendered.answer == "A fox 🦊.<|im_end|>"
    messages = [{"role": "user", "content": QUESTION.prompt}, {"role": "assistant", "content": QUESTION.answer}]
    whole = chat_tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered.prompt + rendered.answer + "\n" == whole


def test_answers_keep_their_own_whitespace(chat_tokenizer):
    assert render(Example("instruction", "q", "  a \n\n"), chat_tokenizer).answer == "  a \n\n<|im_end|>"


def test_without_a_template_a_newline_parts_prompt_and_answer(plain_tokenizer):
    assert render(QUESTION, plain_tokenizer) == RenderedExample("Who are you?\n", "A fox 🦊.<|endoftext|>")


@pytest.mark.parametrize("name", ["chat_tokenizer", "plain_tokenizer"])
def test_plain_text_has_no_prompt_and_no_template(request, name):
    tokenizer = request.getfixturevalue(name)
    assert render(TEXT, tokenizer) == RenderedExample("", "The quick brown fox" + tokenizer.eos_token)


@pytest.mark.parametrize("name", ["chat_tokenizer", "plain_tokenizer"])
@pytest.mark.parametrize("example", [QUESTION, TEXT])
def test_token_ids_are_prompt_then_answer_and_labels_cover_the_answer(request, name, example):
    tokenizer = request.getfixturevalue(name)
    rendered, row = render(example, tokenizer), tokenize(example, tokenizer, 512)
    assert tokenizer.decode(row.input_ids) == rendered.prompt + rendered.answer
    assert tokenizer.decode(row.input_ids[: row.prompt_length]) == rendered.prompt
    assert len(row.labels) == len(row.input_ids)
    assert row.labels[: row.prompt_length] == [IGNORED_LABEL] * row.prompt_length
    assert row.labels[row.prompt_length :] == row.input_ids[row.prompt_length :]
    assert row.labels[-1] == tokenizer.eos_token_id
    assert row.input_ids[row.prompt_length :].count(tokenizer.eos_token_id) == 1
    assert not row.was_cut


def test_a_long_row_loses_its_end_and_is_marked(chat_tokenizer):
    whole = tokenize(QUESTION, chat_tokenizer, 512)
    cut = tokenize(QUESTION, chat_tokenizer, len(whole.input_ids) - 1)
    assert cut.was_cut
    assert cut.full_length == len(whole.input_ids)
    assert cut.input_ids == whole.input_ids[:-1]
    assert chat_tokenizer.eos_token_id not in cut.labels
    assert cut.answer_tokens == whole.answer_tokens - 1


def test_a_cut_that_leaves_no_answer_leaves_nothing_to_learn(chat_tokenizer):
    prompt_length = tokenize(QUESTION, chat_tokenizer, 512).prompt_length
    assert tokenize(QUESTION, chat_tokenizer, prompt_length + 1).answer_tokens == 1
    for longest in (prompt_length, prompt_length - 1):
        row = tokenize(QUESTION, chat_tokenizer, longest)
        assert row.answer_tokens == 0
        assert row.labels == [IGNORED_LABEL] * longest


def test_nothing_predicts_the_first_token_of_a_text(plain_tokenizer):
    row = tokenize(TEXT, plain_tokenizer, 512)
    assert row.labels == row.input_ids
    assert row.answer_tokens == len(row.input_ids) - 1
    assert tokenize(Example("text", "", ""), plain_tokenizer, 512).answer_tokens == 0


def test_many_rows_give_the_same_ids_as_one_by_one(chat_tokenizer):
    rows = [Example("instruction", f"question {number}", "answer " * (number % 7)) for number in range(600)]
    assert list(tokenize_all(rows, chat_tokenizer, 40)) == [tokenize(row, chat_tokenizer, 40) for row in rows]


def test_an_end_of_turn_that_is_not_the_end_of_sequence_is_kept(own_tokenizer):
    own_tokenizer.add_tokens(["<|start|>", "<|end|>"], special_tokens=True)
    own_tokenizer.chat_template = LLAMA_3_LIKE
    assert render(QUESTION, own_tokenizer) == RenderedExample(
        "<|start|>user\n\nWho are you?<|end|><|start|>assistant\n\n", "A fox 🦊.<|end|>"
    )


def test_a_template_that_never_ends_a_turn_gets_the_end_of_sequence(own_tokenizer):
    own_tokenizer.chat_template = WITHOUT_END_OF_TURN
    assert render(QUESTION, own_tokenizer) == RenderedExample(
        "user: Who are you?\nassistant: ", "A fox 🦊.\n<|im_end|>"
    )


def test_a_template_with_another_opening_for_generation_keeps_that_opening(own_tokenizer):
    own_tokenizer.chat_template = THINKING
    assert render(QUESTION, own_tokenizer) == RenderedExample(
        "user: Who are you?<|im_end|>assistant: <think>\n", "A fox 🦊.<|im_end|>"
    )


def test_a_template_that_drops_the_answer_is_refused(own_tokenizer):
    own_tokenizer.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}{{ 'bot:' }}{% endif %}"
    with pytest.raises(DatasetError, match="changes or drops the assistant's answer"):
        render(QUESTION, own_tokenizer)


def test_a_template_that_raises_is_refused_with_its_reason(own_tokenizer):
    own_tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(DatasetError, match="roles must alternate"):
        render(QUESTION, own_tokenizer)


@pytest.mark.parametrize("example", [QUESTION, TEXT])
def test_a_tokenizer_that_cannot_end_a_row_is_refused(own_tokenizer, example):
    own_tokenizer.chat_template = None
    own_tokenizer.eos_token = None
    with pytest.raises(DatasetError, match="no end-of-sequence token"):
        render(example, own_tokenizer)


@pytest.mark.parametrize("example", [QUESTION, TEXT])
def test_a_tokenizer_that_begins_texts_with_a_token_begins_rows_with_it_once(own_tokenizer, example):
    own_tokenizer.chat_template = None
    own_tokenizer.add_special_tokens({"bos_token": "<s>"})
    own_tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", own_tokenizer.bos_token_id)]
    )
    row = tokenize(example, own_tokenizer, 512)
    assert row.input_ids[0] == own_tokenizer.bos_token_id
    assert row.input_ids.count(own_tokenizer.bos_token_id) == 1
    if example is QUESTION:
        assert row.input_ids[: row.prompt_length] == own_tokenizer("Who are you?\n").input_ids
