"""Log-probabilities by the official `openai` package over the API and a real engine in float32, beside transformers."""

from itertools import pairwise

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

PROMPT = "The quick brown fox"
WIDE = "🦊🦉 für 東京 naïve 🙂🙃"
"""Characters of two to four bytes, which are several tokens each."""


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="module")
def reference(tiny_llama_dir):
    """What follows each token, as natural log-probabilities, by transformers."""
    model = AutoModelForCausalLM.from_pretrained(tiny_llama_dir, dtype=torch.float32)

    def logs(ids):
        with torch.inference_mode():
            return model(torch.tensor([ids])).logits[0].log_softmax(-1)

    return logs


@pytest.fixture
def complete(sdk, tiny_model):
    def ask(prompt, **options):
        settings = {"model": "tiny-llama", "prompt": prompt, "temperature": 0, "max_tokens": 4}
        return sdk.completions.create(**settings | options)

    return ask


def require_consistent(shown):
    """What OpenAI's shape promises: one entry for each token, which is itself among the likeliest."""
    lists = [shown.tokens, shown.token_logprobs, shown.top_logprobs, shown.text_offset]
    assert len({len(each) for each in lists}) == 1
    for token, logprob, top in zip(shown.tokens, shown.token_logprobs, shown.top_logprobs, strict=True):
        assert (logprob is None) == (top is None)
        if top is not None:
            assert top[token] == logprob
    assert all(before <= after for before, after in pairwise(shown.text_offset))


@pytest.mark.parametrize("max_tokens", [0, 1, 4])
@pytest.mark.parametrize("text", [PROMPT, WIDE])
@pytest.mark.parametrize("as_ids", [False, True], ids=["text", "ids"])
def test_echo_covers_the_prompts_own_tokens(complete, tokenizer, reference, text, max_tokens, as_ids):
    ids = tokenizer(text).input_ids
    answer = complete(ids if as_ids else text, echo=True, logprobs=2, max_tokens=max_tokens)
    (choice,) = answer.choices
    shown = choice.logprobs
    assert choice.text.startswith(text)
    assert answer.usage.prompt_tokens == len(ids)
    assert len(shown.tokens) == len(ids) + max_tokens
    assert choice.text[len(text) :] == complete(text, max_tokens=max_tokens or 1).choices[0].text[: 99 * max_tokens]
    assert (shown.token_logprobs[0], shown.top_logprobs[0], shown.text_offset[0]) == (None, None, 0)
    require_consistent(shown)
    expected = reference(ids)
    for place, token_id in enumerate(ids[1:]):
        assert shown.token_logprobs[place + 1] == pytest.approx(float(expected[place, token_id]), abs=1e-4)
        assert sorted(shown.top_logprobs[place + 1].values())[-2:] == pytest.approx(
            sorted(expected[place].topk(2).values.tolist()), abs=1e-4
        )
    if max_tokens == 0:
        assert (choice.text, choice.finish_reason) == (text, "length")


@pytest.mark.parametrize("text", [PROMPT, WIDE])
def test_offsets_count_the_characters_that_came_out(complete, tokenizer, text):
    shown = complete(text, echo=True, logprobs=0, max_tokens=0).choices[0].logprobs
    content = b""
    for token, offset, token_id in zip(shown.tokens, shown.text_offset, tokenizer(text).input_ids, strict=True):
        assert offset == len(content.decode(errors="ignore"))
        raw = bytes.fromhex(token[6:].replace("\\x", "")) if token.startswith("bytes:") else token.encode()
        assert raw.decode(errors="replace") == tokenizer.decode([token_id])
        content += raw
    assert content.decode() == text
    assert any(token.startswith("bytes:\\x") for token in shown.tokens) == (text == WIDE)


@pytest.mark.parametrize("logprobs", [0, 1, 5, 20])
def test_names_never_collide_and_the_sampled_token_is_among_them(complete, logprobs):
    options = {"temperature": 3.0, "seed": 1, "max_tokens": 40, "logprobs": logprobs}
    shown = complete(WIDE, **options).choices[0].logprobs
    require_consistent(shown)
    assert len(shown.tokens) == 40
    assert {len(top) for top in shown.top_logprobs} <= {max(logprobs, 1), logprobs + 1}
    assert any(token.startswith("bytes:") for token in shown.tokens)


@pytest.mark.parametrize("max_tokens", [0, 6])
@pytest.mark.parametrize("options", [{"echo": True, "logprobs": 1}, {"echo": True}, {"logprobs": 1}, {}], ids=str)
def test_a_stream_joins_to_the_answer(complete, tokenizer, options, max_tokens):
    prompt, options = (
        tokenizer(WIDE).input_ids,
        options | {"n": 2, "max_tokens": max_tokens, "temperature": 2, "seed": 3},
    )
    whole = complete(prompt, **options)
    chunks = [chunk.choices[0] for chunk in complete(prompt, **options, stream=True) if chunk.choices]
    for choice in whole.choices:
        mine = [chunk for chunk in chunks if chunk.index == choice.index]
        assert "".join(chunk.text for chunk in mine) == choice.text
        shown = [chunk.logprobs for chunk in mine if chunk.logprobs]
        for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset") if options.get("logprobs") else ():
            assert [each for one in shown for each in getattr(one, field)] == getattr(choice.logprobs, field)
        assert mine[-1].finish_reason == choice.finish_reason


def test_the_token_that_ends_the_answer_counts_with_echo(complete, tokenizer):
    options = {"logit_bias": {str(tokenizer.eos_token_id): 100}, "max_tokens": 1, "logprobs": 1}
    echoed = complete(PROMPT, echo=True, **options).choices[0]
    assert (echoed.text, echoed.finish_reason) == (PROMPT, "stop")
    assert echoed.logprobs.tokens[-1] == tokenizer.eos_token
    assert len(echoed.logprobs.tokens) == len(tokenizer(PROMPT).input_ids) + 1
    require_consistent(echoed.logprobs)
    assert complete(PROMPT, **options).choices[0].logprobs.tokens == []


def test_prompt_logprobs_have_vllms_shape(complete, sdk, tokenizer, reference):
    ids = tokenizer(PROMPT).input_ids
    choice = complete([ids, ids[:1]], extra_body={"prompt_logprobs": 2}).choices[0].model_dump()
    first, *found = choice["prompt_logprobs"]
    assert first is None
    for entry, token_id, row in zip(found, ids[1:], reference(ids), strict=False):
        assert next(iter(entry)) == str(token_id)
        assert entry[str(token_id)]["logprob"] == pytest.approx(float(row[token_id]), abs=1e-4)
        assert entry[str(token_id)]["decoded_token"] == tokenizer.decode([token_id])
        assert {str(one) for one in row.topk(2).indices.tolist()} <= entry.keys()
        assert sorted(one["rank"] for one in entry.values())[:2] == [1, 2]
    messages = [{"role": "user", "content": PROMPT}]
    asked = {"model": "tiny-llama", "messages": messages, "max_tokens": 1, "extra_body": {"prompt_logprobs": 0}}
    chat = sdk.chat.completions.create(**asked)
    assert len(chat.model_dump()["prompt_logprobs"]) == chat.usage.prompt_tokens
    with pytest.raises(openai.BadRequestError, match="prompt_logprobs can't be streamed"):
        sdk.chat.completions.create(**asked, stream=True)


def test_options_of_the_answer_reach_the_engine(complete, sdk, tokenizer):
    token_id = 70
    text = tokenizer.decode([token_id])
    forced = {"logit_bias": {str(token_id): 100}}
    assert complete(PROMPT, **forced).choices[0].text == text * 4
    assert complete(PROMPT, **forced, extra_body={"stop_token_ids": [token_id]}).choices[0].text == ""
    late = complete(PROMPT, **forced, extra_body={"stop_token_ids": [token_id], "min_tokens": 2})
    assert (late.usage.completion_tokens, late.choices[0].finish_reason) == (2, "stop")
    plain = complete(PROMPT, max_tokens=20).choices[0].text
    for penalty in ("frequency_penalty", "presence_penalty"):
        assert complete(PROMPT, max_tokens=20, **{penalty: 2}).choices[0].text != plain
    chat = {"model": "tiny-llama", "messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "temperature": 0}
    assert sdk.chat.completions.create(**chat, **forced).choices[0].message.content == text * 3
    ended = chat | {"logit_bias": {str(tokenizer.eos_token_id): 100}}
    assert sdk.chat.completions.create(**ended).usage.completion_tokens == 0
    assert sdk.chat.completions.create(**ended, extra_body={"ignore_eos": True}).usage.completion_tokens == 3


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"frequency_penalty": 2.5}, "frequency_penalty"),
        ({"presence_penalty": -2.5}, "presence_penalty"),
        ({"logit_bias": {"70": 101}}, "logit_bias"),
        ({"logit_bias": {"fox": 1}}, "logit_bias"),
        ({"logit_bias": {"5000000": 1}}, "logit_bias holds the id 5000000"),
        ({"extra_body": {"stop_token_ids": [5_000_000]}}, "stop_token_ids holds the id 5000000"),
        ({"extra_body": {"min_tokens": 5}}, "min_tokens is 5"),
        ({"extra_body": {"prompt_logprobs": 21}}, "prompt_logprobs"),
        ({"max_tokens": -2}, "max_tokens"),
    ],
)
def test_options_without_meaning_are_a_400_that_names_them(complete, options, named):
    with pytest.raises(openai.BadRequestError, match=named):
        complete(PROMPT, **options)
