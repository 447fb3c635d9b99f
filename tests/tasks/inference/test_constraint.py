"""Answers that keep to a JSON schema, whatever the model would rather say; and what becomes of those that can't."""

import enum
import json
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from ipaddress import IPv4Address
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import jsonschema
import pytest
import torch
from pydantic import BaseModel, Field, SecretStr, TypeAdapter, ValidationError
from transformers import AutoTokenizer

from tasks.inference.constraint import JsonConstraint, constraint_tokenizer
from tasks.inference.errors import ConstraintFailed
from tests.tasks.inference.conftest import greedy

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
ROOM = 600


@pytest.fixture(scope="module")
def tokenizer(tiny_llama_dir):
    return AutoTokenizer.from_pretrained(tiny_llama_dir)


@pytest.fixture(scope="module")
def known(tokenizer):
    return constraint_tokenizer(tokenizer)


def random_answer(schema, tokenizer, known, seed):
    """What a model that says anything says under the constraint; None if it would go on for ever."""
    generator = torch.Generator().manual_seed(seed)
    constraint = JsonConstraint(schema, known)
    answer: list[int] = []
    # A head that is wider than the tokenizer, as many models have.
    vocabulary = len(tokenizer) + 7
    # Endings are a little likelier than the rest: texts and lists of a random model have no end otherwise.
    endings = torch.tensor([tokenizer.convert_tokens_to_ids(text) for text in '"]},'])
    for _ in range(ROOM):
        allowed = constraint.allowed(vocabulary)
        assert not allowed[len(tokenizer) :].any()
        logits = torch.randn(vocabulary, generator=generator)
        logits[endings] += 2
        token = int(logits.masked_fill(~allowed, float("-inf")).argmax())
        if token == tokenizer.eos_token_id:
            constraint.finish()
            return tokenizer.decode(answer)
        constraint.accept(token)
        answer.append(token)
    return None


@pytest.mark.parametrize("seed", range(8))
def test_a_model_that_says_anything_says_json_of_the_schema(tokenizer, known, seed):
    jsonschema.validate(json.loads(random_answer(SCHEMA, tokenizer, known, seed)), SCHEMA)


class Color(enum.Enum):
    RED, BLUE = "red", "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=0, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    weight: Annotated[float, Field(gt=0, lt=100)]


class Tree(BaseModel):
    value: Annotated[int, Field(ge=-(2**63), lt=2**63)]
    children: Annotated[list["Tree"], Field(max_length=2)] = []


class Nested(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    color: Color
    note: Annotated[str, Field(max_length=10)] | None


Short = Annotated[str, Field(max_length=6)]
TYPES: list[Any] = [
    Decimal,
    Annotated[Decimal, Field(max_digits=5, decimal_places=2)],
    set[Color],
    set[bool],
    frozenset[Literal[1, 2, 3]],
    Annotated[set[Annotated[str, Field(min_length=20, max_length=30)]], Field(max_length=2)],
    Path,
    SecretStr,
    bytes,
    UUID,
    datetime,
    date,
    time,
    timedelta,
    IPv4Address,
    Literal["a", 7, None],
    Color,
    Nested,
    Cat | None,
    Annotated[Cat | Dog, Field(discriminator="kind")],
    Annotated[dict[Short, int], Field(max_length=3)],
    tuple[int, Short],
    Tree,
    Annotated[int, Field(multiple_of=7, ge=-1000, le=1000)],
    Annotated[int, Field(gt=2**53, lt=2**62)],
    Annotated[str, Field(pattern=r"^[a-z]{2,5}-\d+$")],
    Annotated[str, Field(min_length=3, max_length=5)],
    Annotated[list[Short], Field(min_length=1, max_length=3)],
    bool,
    None,
]
UNSAID = [*TYPES[:2], date, datetime, time, timedelta]
"""Of these no JSON schema says all: a February 30, the second 60, more digits than a number may have."""


@pytest.mark.parametrize("kind", TYPES, ids=str)
def test_what_pydantic_asks_for_is_what_it_takes(tokenizer, known, kind):
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    schema, whole = adapter.json_schema(), 0
    for seed in range(4):
        if (answer := random_answer(schema, tokenizer, known, seed)) is None:
            continue
        whole += 1
        try:
            adapter.validate_json(answer)
        except ValidationError:
            if kind not in UNSAID:
                raise
            jsonschema.validate(json.loads(answer), schema)
    assert whole


def test_items_that_repeat_are_an_error_not_an_answer(tokenizer, known):
    constraint = JsonConstraint({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, known)
    for token in tokenizer('["a","a"]').input_ids:
        constraint.accept(token)
    with pytest.raises(ConstraintFailed, match="repeats an item"):
        constraint.finish()


def test_a_constraint_that_gives_up_is_an_error(tokenizer, known):
    constraint = JsonConstraint(SCHEMA, known)
    with pytest.raises(ConstraintFailed, match="ended before it was complete"):
        constraint.finish()
    with pytest.raises(ConstraintFailed):
        constraint.accept(tokenizer("nonsense").input_ids[0])
    for call in (constraint.finish, lambda: constraint.allowed(len(tokenizer))):
        with pytest.raises(ConstraintFailed, match="could not be kept to its JSON schema"):
            call()


class GivesUp:
    """A constraint that fails after some tokens, in one of the places where one can."""

    def __init__(self, where: str, after: int, vocabulary: int) -> None:
        self.where, self.left, self.vocabulary = where, after, vocabulary

    def allowed(self, vocabulary):
        if self.where == "allowed" and self.left == 0:
            raise ConstraintFailed("it gave up")
        return torch.ones(vocabulary, dtype=torch.bool)

    def accept(self, token_id):
        self.left -= 1
        if self.where == "accept" and self.left < 0:
            raise ConstraintFailed("it gave up")

    def finish(self):
        if self.where == "finish":
            raise ConstraintFailed("it gave up")


@pytest.mark.parametrize("where", ["allowed", "accept", "finish"])
def test_the_engine_ends_one_answer_with_the_error_and_goes_on_with_the_others(make_engine, tiny_llama_dir, where):
    engine, free = make_engine(), greedy(tiny_llama_dir, max_new_tokens=12)
    expected = engine.generate(free)
    broken = replace(free, constraint=GivesUp(where, 5, 400))
    if where == "finish":
        broken = replace(broken, eos_token_ids={expected[5]})
    generations = [engine.submit(request) for request in (free, broken, free)]
    assert [generations[0].result(120), generations[2].result(120)] == [expected, expected]
    with pytest.raises(ConstraintFailed, match="it gave up"):
        generations[1].result(120)
    assert generations[1].tokens == expected[: expected.index(expected[5])] if where == "finish" else expected[:5]
    assert generations[1].finish_reason is None


def test_an_answer_that_is_cut_says_so(make_engine, tiny_llama_dir, known):
    generation = make_engine().submit(
        greedy(tiny_llama_dir, max_new_tokens=3, constraint=JsonConstraint(SCHEMA, known))
    )
    assert len(generation.result(120)) == 3
    assert generation.finish_reason == "length"


def test_ends_that_are_not_the_tokenizers_own_end_it_too(tokenizer):
    other = tokenizer.convert_tokens_to_ids("<|im_start|>")
    constraint = JsonConstraint({"type": "integer"}, constraint_tokenizer(tokenizer, {tokenizer.eos_token_id, other}))
    constraint.accept(tokenizer("7").input_ids[0])
    allowed = constraint.allowed(len(tokenizer))
    assert allowed[[tokenizer.eos_token_id, other]].all()
