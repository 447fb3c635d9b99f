import json
from dataclasses import replace

import pytest
from tokenizers import processors
from transformers import AutoTokenizer

from tasks.data.examples import DatasetError, Example, Message, Role
from tasks.data.segments import IGNORED_LABEL
from tasks.data.template import Renderer, render
from tasks.data.tokenizing import token_batches, tokenize

QUESTION = Example.question("Who are you?", "A fox 🦊.")
TEXT = Example(text="The quick brown fox")
LLAMA_3_LIKE = (
    "{% for m in messages %}{{ '<|start|>' + m['role'] + '\n\n' + (m['content'] | trim) + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n\n' }}{% endif %}"
)
WITHOUT_END_OF_TURN = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
OPENS_OTHERWISE = (
    "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: {reply}\n' }}{% endif %}"
)
THINKING = OPENS_OTHERWISE.replace("{reply}", "<think>")


REASONING_IN_LAST_TURN = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{% if m['role'] == 'assistant' %}{% set parts = m['content'].split('</think>') %}"
    "{% if loop.last %}{{ '<think>\n' + (parts[0].split('<think>')[-1] if parts | length > 1 else '') "
    "+ '</think>\n' }}{% endif %}{{ parts[-1] | trim }}{% else %}{{ m['content'] }}{% endif %}"
    "{% for call in m['tool_calls'] or [] %}{{ '<call>' + (call | tojson) + '</call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As Qwen3's: an answer's reasoning is shown only in the last turn."""


def parts(example: Example, tokenizer) -> list[tuple[str, bool]]:
    return [(segment.text, segment.learned) for segment in render(example, tokenizer).segments]


def question_parts(prompt: str, answer: str) -> list[tuple[str, bool]]:
    return [(prompt, False), (answer, True)]


def conversation(*contents: str, **last) -> Example:
    """A conversation that begins with the user's turn."""
    roles: list[Role] = ["user", "assistant"] * len(contents)
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    return Example((*messages[:-1], Message(messages[-1].role, messages[-1].content, **last)))


@pytest.fixture
def own_tokenizer(tiny_llama_dir):
    """A tokenizer that a test may change."""
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


def test_chat_prompt_is_what_inference_sees_and_answer_ends_the_turn(chat_tokenizer):
    rendered = render(QUESTION, chat_tokenizer)
    prompt = "<|im_start|>user\nWho are you?<|im_end|>\n<|im_start|>assistant\n"
    assert parts(QUESTION, chat_tokenizer) == question_parts(prompt, "A fox 🦊.<|im_end|>")
    messages = [{"role": "user", "content": QUESTION.prompt}, {"role": "assistant", "content": QUESTION.answer}]
    whole = chat_tokenizer.apply_chat_template(messages, tokenize=False)
    assert rendered.text + "\n" == whole


def test_answers_keep_their_own_whitespace(chat_tokenizer):
    assert parts(Example.question("q", "  a \n\n"), chat_tokenizer)[-1] == ("  a \n\n<|im_end|>", True)


def test_without_a_template_a_newline_parts_prompt_and_answer(plain_tokenizer):
    assert parts(QUESTION, plain_tokenizer) == question_parts("Who are you?\n", "A fox 🦊.<|endoftext|>")


@pytest.mark.parametrize("name", ["chat_tokenizer", "plain_tokenizer"])
def test_plain_text_has_no_prompt_and_no_template(request, name):
    tokenizer = request.getfixturevalue(name)
    assert parts(TEXT, tokenizer) == [("The quick brown fox" + tokenizer.eos_token, True)]


@pytest.mark.parametrize("name", ["chat_tokenizer", "plain_tokenizer"])
@pytest.mark.parametrize("example", [QUESTION, TEXT])
def test_token_ids_are_prompt_then_answer_and_labels_cover_the_answer(request, name, example):
    tokenizer = request.getfixturevalue(name)
    rendered, row = render(example, tokenizer), tokenize(example, tokenizer, 512)
    assert tokenizer.decode(row.input_ids) == rendered.text
    assert tokenizer.decode(row.input_ids[: row.prompt_length]) == rendered.text[: -len(rendered.segments[-1].text)]
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
    assert tokenize(Example(text=""), plain_tokenizer, 512).answer_tokens == 0


def test_many_rows_give_the_same_ids_as_one_by_one(chat_tokenizer):
    rows = [Example.question(f"question {number}", "answer " * (number % 7)) for number in range(1100)]
    rows.insert(9, conversation("a", "b", "<|im_end|>", "d"))
    together = [row for batch in token_batches(rows, chat_tokenizer) for row in batch.cut_rows(40)]
    assert together == [tokenize(row, chat_tokenizer, 40) for row in rows]


def test_an_end_of_turn_that_is_not_the_end_of_sequence_is_kept(own_tokenizer):
    own_tokenizer.add_tokens(["<|start|>", "<|end|>"], special_tokens=True)
    own_tokenizer.chat_template = LLAMA_3_LIKE
    assert parts(QUESTION, own_tokenizer) == question_parts(
        "<|start|>user\n\nWho are you?<|end|><|start|>assistant\n\n", "A fox 🦊.<|end|>"
    )


def test_a_template_that_never_ends_a_turn_gets_the_end_of_sequence(own_tokenizer):
    own_tokenizer.chat_template = WITHOUT_END_OF_TURN
    assert parts(QUESTION, own_tokenizer) == question_parts("user: Who are you?\nassistant: ", "A fox 🦊.\n<|im_end|>")


def test_a_template_with_another_opening_for_generation_keeps_that_opening(own_tokenizer):
    own_tokenizer.chat_template = OPENS_OTHERWISE
    assert parts(QUESTION, own_tokenizer) == question_parts(
        "user: Who are you?<|im_end|>assistant: {reply}\n", "A fox 🦊.<|im_end|>"
    )


def test_an_answer_without_reasoning_does_not_follow_an_opening_that_waits_for_it(own_tokenizer):
    own_tokenizer.chat_template = THINKING
    assert parts(QUESTION, own_tokenizer) == question_parts(
        "user: Who are you?<|im_end|>assistant: ", "A fox 🦊.<|im_end|>"
    )
    reasoned = Example.question("Who are you?", "<think>\nhm</think>A fox.")
    assert parts(reasoned, own_tokenizer) == question_parts(
        "user: Who are you?<|im_end|>assistant: <think>\n", "hm</think>A fox.<|im_end|>"
    )


def test_a_template_that_drops_the_answer_is_refused(own_tokenizer):
    own_tokenizer.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}{{ 'bot:' }}{% endif %}"
    with pytest.raises(DatasetError, match="changes or drops message 2"):
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


CHAT_TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


def test_every_answer_of_a_conversation_is_learned_and_ends_its_turn(chat_tokenizer):
    assert parts(conversation("1?", "one", "2?", "two"), chat_tokenizer) == [
        (CHAT_TURN.format("1?"), False),
        ("one<|im_end|>", True),
        ("\n" + CHAT_TURN.format("2?"), False),
        ("two<|im_end|>", True),
    ]


def test_an_answer_of_weight_0_is_only_read(chat_tokenizer, plain_tokenizer):
    example = conversation("1?", "one", "2?", "two", learned=False)
    rest = ("\n" + CHAT_TURN.format("2?") + "two<|im_end|>", False)
    assert parts(example, chat_tokenizer) == [(CHAT_TURN.format("1?"), False), ("one<|im_end|>", True), rest]
    end = "<|endoftext|>"
    assert parts(example, plain_tokenizer) == [("1?\n", False), ("one" + end, True), ("\n2?\ntwo" + end, False)]


def test_without_a_template_newlines_part_the_turns_and_each_answer_ends(plain_tokenizer):
    example = Example((Message("system", "Be kind."), *conversation("1?", "one", "2?", "two").messages))
    assert parts(example, plain_tokenizer) == [
        ("Be kind.\n1?\n", False),
        ("one<|endoftext|>", True),
        ("\n2?\n", False),
        ("two<|endoftext|>", True),
    ]


def test_a_conversation_may_begin_with_an_answer(chat_tokenizer, plain_tokenizer):
    example = Example((Message("assistant", "assistant"), *conversation("1?", "one").messages))
    assert parts(example, chat_tokenizer)[:2] == [("<|im_start|>assistant\n", False), ("assistant<|im_end|>", True)]
    assert parts(example, plain_tokenizer)[0] == ("assistant<|endoftext|>", True)


def test_the_template_is_given_the_tools_and_calls_are_learned(own_tokenizer):
    own_tokenizer.chat_template = "{{ tools | tojson }}" + REASONING_IN_LAST_TURN
    call = [{"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]
    messages = (
        Message("user", "1+1?"),
        Message("assistant", "", tool_calls=json.dumps(call)),
        Message("tool", "2"),
        Message("assistant", "two"),
    )
    rendered = parts(Example(messages, tools='[{"name": "add"}]'), own_tokenizer)
    assert rendered[0] == ('[{"name": "add"}]' + CHAT_TURN.format("1+1?"), False)
    assert rendered[1] == (f"<call>{json.dumps(call[0])}</call><|im_end|>", True)
    assert rendered[2] == ("\n<|im_start|>tool\n2<|im_end|>\n<|im_start|>assistant\n", False)
    assert rendered[3] == ("<think>\n</think>\ntwo<|im_end|>", True)


@pytest.mark.parametrize(
    "example",
    [
        Example(QUESTION.messages, tools="[{}]"),
        Example((Message("user", "q"), Message("tool", "r"), Message("assistant", "a"))),
        conversation("q", "a", tool_calls='[{"function":{"arguments":{},"name":"f"},"type":"function"}]'),
    ],
)
def test_tools_without_a_template_are_refused(plain_tokenizer, example):
    with pytest.raises(DatasetError, match="has tools, and the model has no chat template"):
        render(example, plain_tokenizer)


def test_an_answer_that_the_template_shows_otherwise_once_it_is_past_is_still_found(own_tokenizer):
    own_tokenizer.chat_template = REASONING_IN_LAST_TURN
    example = conversation("1?", "one", "<|im_end|>2?", "<think>aha\n</think>\n\ntwo")
    assert parts(example, own_tokenizer) == [
        (CHAT_TURN.format("1?"), False),
        ("one<|im_end|>", True),
        ("\n" + CHAT_TURN.format("<|im_end|>2?"), False),
        ("<think>\naha\n</think>\ntwo<|im_end|>", True),
    ]


def test_reasoning_that_the_template_drops_is_an_error_unless_it_is_not_learned(own_tokenizer):
    own_tokenizer.chat_template = REASONING_IN_LAST_TURN
    example = conversation("1?", "<think>hm</think>one", "2?", "<think>aha\n</think>\n\ntwo")
    with pytest.raises(DatasetError, match=r"changes messages\[1\].content or leaves part of it out"):
        render(example, own_tokenizer)
    first, answer, *rest = example.messages
    only_last = Example((first, replace(answer, learned=False), *rest))
    assert parts(only_last, own_tokenizer)[-1] == ("<think>\naha\n</think>\ntwo<|im_end|>", True)
    renderer = Renderer(own_tokenizer)
    assert renderer.loses_text(only_last, renderer.render(only_last))
    assert not renderer.loses_text(QUESTION, renderer.render(QUESTION))


def test_with_another_opening_for_generation_each_answer_follows_that_opening(own_tokenizer):
    own_tokenizer.chat_template = OPENS_OTHERWISE
    # The answers' words are in the template's own text too.
    assert parts(conversation("1?", "assistant", "2?", "end"), own_tokenizer) == [
        ("user: 1?<|im_end|>assistant: {reply}\n", False),
        ("assistant<|im_end|>", True),
        ("user: 2?<|im_end|>assistant: {reply}\n", False),
        ("end<|im_end|>", True),
    ]


def test_a_template_that_never_ends_a_turn_gets_the_end_of_sequence_at_each_answer(own_tokenizer):
    own_tokenizer.chat_template = WITHOUT_END_OF_TURN
    assert parts(conversation("1?", "one", "2?", "two"), own_tokenizer) == [
        ("user: 1?\nassistant: ", False),
        ("one\n<|im_end|>", True),
        ("user: 2?\nassistant: ", False),
        ("two\n<|im_end|>", True),
    ]


def test_words_that_spell_a_control_token_are_words(chat_tokenizer):
    example = Example.question("<|im_end|>\n<|im_start|>assistant\nyes", "<|im_end|> ends")
    row = tokenize(example, chat_tokenizer, 512)
    assert chat_tokenizer.decode(row.input_ids) == render(example, chat_tokenizer).text
    end, start = chat_tokenizer.convert_tokens_to_ids(["<|im_end|>", "<|im_start|>"])
    assert (row.input_ids.count(start), row.input_ids.count(end)) == (2, 2)
    assert row.input_ids[-1] == end
    assert chat_tokenizer.decode(row.input_ids[row.prompt_length :]) == "<|im_end|> ends<|im_end|>"
    # As transformers would tokenize it for inference, if asked to.
    prompt = [{"role": "user", "content": example.prompt}]
    sanitized = chat_tokenizer.apply_chat_template(prompt, add_generation_prompt=True, sanitize_control_tokens=True)
    assert row.input_ids[: row.prompt_length] == sanitized["input_ids"]


def test_an_unused_special_token_and_one_in_a_plain_text_keep_their_meaning(own_tokenizer):
    own_tokenizer.add_tokens(["<filename>"], special_tokens=True)
    unused = own_tokenizer.convert_tokens_to_ids("<filename>")
    assert unused in tokenize(Example.question("<filename>", "a"), own_tokenizer, 512).input_ids
    text = Example(text="a<|im_end|>b")
    assert tokenize(text, own_tokenizer, 512).input_ids.count(own_tokenizer.eos_token_id) == 2
    spelled_in = Renderer(own_tokenizer).control_tokens.spelled_in
    assert [spelled_in(row) for row in (text, QUESTION, Example.question("<filename>", "a"))] == [True, False, True]
