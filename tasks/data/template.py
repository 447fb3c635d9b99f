"""From an example to the text and the token ids that are trained on, with the loss on the answer only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from tasks.data.examples import DatasetError, Example

IGNORED_LABEL = -100
"""Label of a token that takes no part in the loss, as in torch's cross entropy."""
ROWS_PER_CALL = 256
"""Rows handed to the tokenizer at once: enough to keep its threads busy, few enough to stay small."""


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """The text trained on, in two parts: `prompt + answer`. Special tokens are spelled out in it."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class TokenizedExample:
    """A row of token ids, cut to the longest length allowed; `full_length` is its length before the cut."""

    input_ids: list[int]
    prompt_length: int
    full_length: int

    @property
    def labels(self) -> list[int]:
        """As long as `input_ids` and not shifted: the ids of the answer, IGNORED_LABEL over the prompt."""
        return [IGNORED_LABEL] * self.prompt_length + self.input_ids[self.prompt_length :]

    @property
    def was_cut(self) -> bool:
        """Whether tokens were cut off the end."""
        return self.full_length > len(self.input_ids)

    @property
    def answer_tokens(self) -> int:
        """Tokens that are predicted, and so carry a loss; nothing predicts the first token of a row."""
        return len(self.input_ids) - max(self.prompt_length, min(1, len(self.input_ids)))


def render(example: Example, tokenizer: PreTrainedTokenizerBase) -> RenderedExample:
    """Return the text that an example is trained on, in the tokenizer's own chat format if it has one.

    Instruction with a chat template: the prompt ends where the assistant's turn begins, and the answer ends with the
    token that ends the turn. Whitespace that the template puts after that token is left out: generation has stopped
    by then, and a token that never varies only flatters the loss. A template that ends a turn with no special token
    gets the tokenizer's end-of-sequence token, without which the model would not learn to stop.

    Instruction without a template: `prompt`, a newline, `answer`, end of sequence. Text: the text, end of sequence.
    Both begin with the tokenizer's begin-of-sequence token if it puts one before a text by itself.

    Raises DatasetError if the chat template fails or loses the answer, or an end-of-sequence token is missing.
    """
    if example.kind == "instruction" and tokenizer.chat_template:
        return _render_chat(example, tokenizer)
    start = _start_of_text(tokenizer)
    if example.kind == "instruction":
        return RenderedExample(f"{start}{example.prompt}\n", example.answer + _end_of_sequence(tokenizer))
    return RenderedExample("", start + example.answer + _end_of_sequence(tokenizer))


def tokenize(example: Example, tokenizer: PreTrainedTokenizerBase, max_seq_length: int) -> TokenizedExample:
    """Return one example as token ids; see `tokenize_all`."""
    return next(tokenize_all([example], tokenizer, max_seq_length))


def tokenize_all(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_seq_length: int
) -> Iterator[TokenizedExample]:
    """Yield each example as at most `max_seq_length` token ids, in order.

    Prompt and answer are tokenized apart, as they are at inference, so that no token straddles the border between
    them. A longer row loses its end, and with it the token that ends it: the model must not learn to stop in the middle
    of a sentence. A row that keeps no `answer_tokens` is of no use; the caller leaves it out and counts it.

    Raises DatasetError as `render` does.
    """
    for start in range(0, len(examples), ROWS_PER_CALL):
        rendered = [render(example, tokenizer) for example in examples[start : start + ROWS_PER_CALL]]
        prompts = _token_ids([row.prompt for row in rendered], tokenizer)
        answers = _token_ids([row.answer for row in rendered], tokenizer)
        for prompt, answer in zip(prompts, answers, strict=True):
            input_ids = (prompt + answer)[:max_seq_length]
            yield TokenizedExample(input_ids, min(len(prompt), len(input_ids)), len(prompt) + len(answer))


def _token_ids(texts: list[str], tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    # Rendered text spells its special tokens out, so the tokenizer must not add them a second time; and a row longer
    # than the model's context is cut by us, not warned about.
    encoded = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    token_ids: list[list[int]] = encoded["input_ids"]
    return token_ids


def _render_chat(example: Example, tokenizer: PreTrainedTokenizerBase) -> RenderedExample:
    question = {"role": "user", "content": example.prompt}
    messages = [question, {"role": "assistant", "content": example.answer}]
    try:
        prompt: str = tokenizer.apply_chat_template([question], tokenize=False, add_generation_prompt=True)
        full: str = tokenizer.apply_chat_template(messages, tokenize=False)
    except (TemplateError, TypeError, ValueError) as error:
        raise DatasetError(f"the tokenizer's chat template cannot render a question and answer: {error}") from error
    if full.startswith(prompt):
        answer = full[len(prompt) :]
    else:
        # Some templates open the turn otherwise for generation (say, with `<think>`) than they show a past one. The
        # prompt must be the one the model will see at inference, so only the answer's end is taken from the full text.
        position = full.rfind(example.answer.strip())
        if position < 0:
            raise DatasetError(
                "the tokenizer's chat template changes or drops the assistant's answer, so it cannot be trained on"
            )
        answer = full[position:]
    ended = answer.rstrip()
    if _ends_with_special_token(ended, tokenizer):
        return RenderedExample(prompt, ended)
    return RenderedExample(prompt, answer + _end_of_sequence(tokenizer))


def _ends_with_special_token(text: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    # Nearly every template ends a turn with the end-of-sequence token; listing all special tokens is slow.
    if tokenizer.eos_token and text.endswith(tokenizer.eos_token):
        return True
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return text.endswith((*tokenizer.all_special_tokens, *added))


def _end_of_sequence(tokenizer: PreTrainedTokenizerBase) -> str:
    if not tokenizer.eos_token:
        raise DatasetError("the tokenizer has no end-of-sequence token, so a model could not learn to stop")
    return str(tokenizer.eos_token)


def _start_of_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return the begin-of-sequence token if the tokenizer puts it before a text by itself, as Llama's do."""
    if tokenizer.bos_token and tokenizer("").input_ids[:1] == [tokenizer.bos_token_id]:
        return str(tokenizer.bos_token)
    return ""
