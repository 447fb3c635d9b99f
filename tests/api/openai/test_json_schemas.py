"""JSON schemas by the official `openai` package over the API and a real engine: kept to, refused, or an error."""

import json
from typing import Any

import openai
import pytest

BIG = 1234567890123456789
ENDLESS = {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}, "required": ["n"]}
BROKEN = {
    "type": "array",
    "items": {"type": "string", "maxLength": 0},
    "minItems": 2,
    "maxItems": 2,
    "uniqueItems": True,
}
"""Every text that the grammar allows repeats an item."""


@pytest.fixture
def ask(sdk, tiny_model):
    def of(schema, **options):
        wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        asked = {"model": "tiny-llama", "messages": [{"role": "user", "content": "x"}], "max_tokens": 60}
        return sdk.chat.completions.create(**asked, response_format=wanted, temperature=0, **options)

    return of


def nested(levels):
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    return schema


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"$ref": "#/$defs/n", "$defs": {"n": {"$ref": "#/$defs/n"}}}, "#/\\$defs/n refers to has no finite value"),
        ({"$ref": "#/$defs/N", "$defs": {"N": ENDLESS}}, "#/\\$defs/N refers to has no finite value"),
        ({"enum": [BIG, BIG + 1]}, str(BIG)),
        ({"type": "string", "pattern": "^(?!a)b$"}, "pattern"),
        (nested(45), None),
        (nested(200), "nest"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_schema_that_can_not_be_kept_to_is_a_400_that_says_why(ask, schema, said):
    if said is None:
        assert ask(schema).choices[0].finish_reason in ("stop", "length")
        return
    with pytest.raises(openai.BadRequestError, match=said):
        ask(schema)


@pytest.mark.parametrize("stream", [False, True])
def test_a_constraint_that_gives_up_is_an_error_and_no_answer(ask, stream):
    with pytest.raises(openai.APIError, match="repeats an item") as failed:
        for _ in ask(BROKEN, stream=stream):
            pass
    assert isinstance(failed.value, openai.InternalServerError) or stream


def test_a_schema_ends_the_answer_even_if_ends_are_to_be_ignored(ask):
    answer = ask({"enum": ["red"]}, extra_body={"ignore_eos": True, "min_tokens": 30}).choices[0]
    assert (json.loads(answer.message.content), answer.finish_reason) == ("red", "stop")
