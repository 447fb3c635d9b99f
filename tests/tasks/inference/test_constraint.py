"""Answers that keep to a JSON schema, whatever the model would rather say."""

import json

import jsonschema
import pytest
import torch
from transformers import AutoTokenizer

from tasks.inference.constraint import JsonConstraint, SchemaError, constraint_tokenizer

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "color": {"enum": ["red", "blue"]},
        "sizes": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
    },
    "required": ["name", "color", "sizes"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="module")
def known(tokenizer):
    return constraint_tokenizer(tokenizer)


@pytest.mark.parametrize("seed", range(8))
def test_a_model_that_says_anything_says_json_of_the_schema(tokenizer, known, seed):
    generator = torch.Generator().manual_seed(seed)
    constraint, answer = JsonConstraint(SCHEMA, known), []
    # A head that is wider than the tokenizer, as many models have.
    vocabulary = len(tokenizer) + 7
    for _ in range(200):
        allowed = constraint.allowed(vocabulary)
        assert not allowed[len(tokenizer) :].any()
        token = int(torch.randn(vocabulary, generator=generator).masked_fill(~allowed, float("-inf")).argmax())
        constraint.accept(token)
        if token == tokenizer.eos_token_id:
            break
        answer.append(token)
    else:
        raise AssertionError("the answer never ended")
    jsonschema.validate(json.loads(tokenizer.decode(answer)), SCHEMA)


@pytest.mark.parametrize("schema", [{"type": "thing"}, {"$ref": "http://elsewhere.example/schema"}])
def test_a_schema_that_can_not_be_followed_is_refused(known, schema):
    with pytest.raises(SchemaError, match="can't be followed"):
        JsonConstraint(schema, known)
