"""Embeddings by the official `openai` package over the API and a real engine, in float32."""

from base64 import b64encode

import openai
import pytest
import torch
from transformers import AutoTokenizer

from tests.tasks.inference.test_embedding import mean_state

TEXTS = ["What does the Python function", "Return the absolute value of the argument.", "fox"]


def unit_mean_state(folder, text, adapter=None):
    """Transformers' mean of the last hidden states at unit length, and the number of tokens."""
    ids = AutoTokenizer.from_pretrained(folder)(text).input_ids
    return torch.nn.functional.normalize(mean_state(folder, ids, adapter), dim=0), len(ids)


def vectors(answer):
    assert [one.index for one in answer.data] == list(range(len(answer.data)))
    return torch.tensor([one.embedding for one in answer.data])


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "fine-tune"])
def test_texts_become_unit_vectors_in_their_order(sdk, tuned, tiny_llama_dir, data_dir, adapted):
    name = tuned if adapted else "tiny-llama"
    adapter = data_dir / "adapters" / "1" if adapted else None
    expected, counts = zip(*(unit_mean_state(tiny_llama_dir, text, adapter) for text in TEXTS), strict=True)
    answer = sdk.embeddings.create(model=name, input=TEXTS)
    torch.testing.assert_close(vectors(answer), torch.stack(expected), atol=1e-6, rtol=1e-5)
    assert (answer.usage.prompt_tokens, answer.usage.total_tokens) == (sum(counts), sum(counts))
    assert answer.model == name


def test_every_way_to_give_a_text_gives_the_same_vector(sdk, tiny_model, tiny_llama_dir):
    ids = AutoTokenizer.from_pretrained(tiny_llama_dir)(TEXTS[0]).input_ids
    first, second = vectors(sdk.embeddings.create(model="tiny-llama", input=TEXTS[:2]))
    for same in (TEXTS[0], [TEXTS[0]], ids, [ids, ids]):
        for encoding in ({}, {"encoding_format": "float"}):  # by default the SDK asks for base64 and decodes it
            answer = sdk.embeddings.create(model="tiny-llama", input=same, **encoding)
            assert torch.equal(vectors(answer), first.expand(len(answer.data), -1))
    encoded = sdk.embeddings.create(model="tiny-llama", input=TEXTS[0], encoding_format="base64").data[0].embedding
    assert encoded == b64encode(first.numpy().tobytes()).decode()
    assert not torch.allclose(first, second, atol=0.1)


def test_fewer_dimensions_are_the_first_ones_at_unit_length(sdk, tiny_model):
    whole = vectors(sdk.embeddings.create(model="tiny-llama", input=TEXTS))
    cut = vectors(sdk.embeddings.create(model="tiny-llama", input=TEXTS, dimensions=8))
    torch.testing.assert_close(cut, torch.nn.functional.normalize(whole[:, :8], dim=1))


def test_more_inputs_than_the_engines_queue_holds(sdk, tiny_model):
    answer = sdk.embeddings.create(model="tiny-llama", input=[[1 + place % 300] for place in range(400)])
    found = vectors(answer)
    assert torch.equal(found[:100], found[300:])
    assert answer.usage.prompt_tokens == 400


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "no model named 'gpt-9'"),
        ({"input": ""}, openai.BadRequestError, "^.*input is '', but it must be a text.*none of them empty"),
        ({"input": []}, openai.BadRequestError, r"input is \[\], but"),
        ({"input": ["a", ""]}, openai.BadRequestError, r"input is \['a', ''\], but"),
        ({"input": [["a"], 1]}, openai.BadRequestError, "input is"),
        ({"input": ["a"] * 2049}, openai.BadRequestError, "holds 2049 inputs, and at most 2048"),
        ({"input": "word " * 2000}, openai.BadRequestError, r"input has \d+ tokens, and the model's context holds 256"),
        ({"input": [5_000_000]}, openai.BadRequestError, "vocabulary"),
        ({"dimensions": 33}, openai.BadRequestError, "dimensions is 33, but the embeddings of this model have 32"),
        ({"dimensions": 0}, openai.BadRequestError, "dimensions is 0"),
        ({"extra_body": {"dimension": 4}}, openai.BadRequestError, "dimension is not a known field"),
    ],
)
def test_what_is_wrong_with_a_request_is_an_exception_of_the_sdk(sdk, tiny_model, change, error, said):
    with pytest.raises(error, match=said) as raised:
        sdk.embeddings.create(**({"model": "tiny-llama", "input": "Hello"} | change))
    assert set(raised.value.body) >= {"message", "type", "param", "code"}
