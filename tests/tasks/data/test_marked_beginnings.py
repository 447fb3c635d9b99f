"""Tokenizers that begin every text with a mark: what is learned has the ids that it has after its prompt."""

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tasks.data.examples import Example, Message
from tasks.data.generation_prompt import GenerationPrompts
from tasks.data.tokenizing import tokenize

ZEPHYR = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
BEGINNINGS = {
    "Llama 2": (normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None),
    "Mistral": (None, pre_tokenizers.Metaspace(prepend_scheme="first", split=True)),
    "T5": (None, pre_tokenizers.Metaspace(prepend_scheme="always", split=True)),
    "RoBERTa": (None, pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "GPT-2": (None, pre_tokenizers.ByteLevel(add_prefix_space=False)),
}


@pytest.fixture(scope="module", params=BEGINNINGS)
def tokenizer(request):
    normalizer, pre_tokenizer = BEGINNINGS[request.param]
    backend = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    words = "Hello there Hi It is fine Ho user assistant <|user|>\n<|assistant|>\n"
    backend.train_from_iterator([words] * 50, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    made.chat_template = ZEPHYR
    return made


@pytest.mark.parametrize(
    ("question", "answer"),
    [("Hi", "Hello there"), ("Ho", " It is fine"), ("é", "é 🦊"), ("a </s> b", "Hello </s> there")],
)
def test_answers_have_the_ids_of_the_whole_conversation(tokenizer, question, answer):
    row = tokenize(Example.question(question, answer), tokenizer, 512)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    spells_a_token = "</s>" in answer
    whole = tokenizer.apply_chat_template(turns, sanitize_control_tokens=spells_a_token)["input_ids"]
    assert row.input_ids == whole[: len(row.input_ids)]
    # The newline after the last turn is left out.
    assert len(whole) - len(row.input_ids) <= 2
    assert row.learned_spans == ((row.prompt_length, len(row.input_ids)),)
    assert row.input_ids[-1] == tokenizer.eos_token_id


def test_a_prompt_for_generation_is_what_was_trained_on(tokenizer):
    row = tokenize(Example.question("Hi", "Hello there"), tokenizer, 512)
    assert GenerationPrompts(tokenizer).prompt([Message("user", "Hi")]).token_ids == row.input_ids[: row.prompt_length]
