"""Schemas that the grammar engine would get wrong or not follow: what becomes of them, by the texts that match."""

import json
import re
from typing import Any

import pytest
from llguidance import LLMatcher

from tasks.inference.constraint import JsonConstraint, constraint_tokenizer
from tasks.inference.errors import ConstraintFailed
from tasks.inference.json_schema import KNOWN_FORMATS, SchemaError
from tests.tiny_models import CHAT_TEMPLATE, byte_level_tokenizer

BIG = 1234567890123456789


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level_tokenizer("<|im_end|>", ["<|im_start|>"], CHAT_TEMPLATE)


@pytest.fixture(scope="module")
def known(tokenizer):
    return constraint_tokenizer(tokenizer)


@pytest.fixture
def matches(tokenizer, known):
    """Whether a text, token by token, is an answer that the schema allows."""

    def check(schema, text):
        constraint = JsonConstraint(schema, known)
        for token_id in tokenizer(text).input_ids:
            if not constraint.allowed(len(tokenizer))[token_id]:
                return False
            constraint.accept(token_id)
        try:
            constraint.finish()
        except ConstraintFailed:
            return False
        return True

    return check


def record(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


NODE = {"$ref": "#/$defs/node"}
ENDLESS = {
    "itself": {"$ref": "#/$defs/node", "$defs": {"node": NODE}},
    "root": {"$ref": "#"},
    "mandatory": {**NODE, "$defs": {"node": record(next=NODE)}},
    "by two": {**NODE, "$defs": {"node": record(a={"$ref": "#/$defs/b"}), "b": record(c=NODE)}},
    "in an array": {**NODE, "$defs": {"node": {"type": "array", "items": NODE, "minItems": 1}}},
    "in a tuple": {**NODE, "$defs": {"node": {"type": "array", "prefixItems": [{}, NODE], "minItems": 2}}},
    "in all ways": {**NODE, "$defs": {"node": {"anyOf": [record(a=NODE), record(b=NODE)]}}},
    "in a part": record(a={"type": "integer"}, b={"$ref": "#/properties/c"}, c={"allOf": [{"$ref": "#/properties/c"}]}),
}


@pytest.mark.parametrize("name", ENDLESS)
def test_a_schema_without_a_finite_value_is_refused_by_its_reference(known, name):
    with pytest.raises(SchemaError, match=r"#(/\S+)? refers to has no finite value"):
        JsonConstraint(ENDLESS[name], known)


FINITE = [
    ({**NODE, "$defs": {"node": record(children={"type": "array", "items": NODE})}}, '{"children":[{"children":[]}]}'),
    ({**NODE, "$defs": {"node": record(next={"anyOf": [NODE, {"type": "null"}]})}}, '{"next":{"next":null}}'),
    ({"type": "object", "properties": {"next": {"$ref": "#"}}, "additionalProperties": False}, '{"next":{"next":{}}}'),
    ({**NODE, "$defs": {"node": {"type": "array", "prefixItems": [{"type": "integer"}, NODE], "items": False}}}, "[1]"),
]


@pytest.mark.parametrize(("schema", "text"), FINITE, ids=str)
def test_recursion_that_may_end_is_followed(matches, schema, text):
    assert matches(schema, text)


NUMBERS = [
    ({"const": 2**60}, [2**60], [2**60 + 1]),
    ({"enum": [7, -(2**53)]}, [7, -(2**53)], [-(2**53) - 1, 8]),
    ({"type": "integer", "minimum": BIG, "maximum": BIG + 1000}, [BIG + 300, BIG + 511], [BIG - 1, BIG + 1001]),
    ({"type": "integer", "exclusiveMinimum": BIG, "exclusiveMaximum": BIG + 999}, [BIG + 300], [BIG, BIG + 999]),
    ({"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}, [0, BIG, -BIG, 2**63 - 1024], [2**63, -(2**64)]),
    ({"type": "integer", "minimum": 0, "maximum": 2**64 - 1}, [0, BIG], [-1, 2**64]),
    ({"type": "number", "minimum": 0, "maximum": 1e300}, [0.5, 1e15], [-0.5]),
    ({"anyOf": [{"type": "integer", "maximum": -BIG}, {"type": "null"}]}, [-BIG - 300, None], [-BIG + 1]),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), NUMBERS, ids=str)
def test_large_numbers_are_exact(matches, schema, right, wrong):
    for value in right:
        text = format(value, ".0f") if isinstance(value, float) and value.is_integer() else json.dumps(value)
        assert matches(schema, text), text
    for value in wrong:
        assert not matches(schema, json.dumps(value)), value


REFUSED = [
    ({"enum": [1, BIG]}, f"#/enum holds {BIG}"),
    ({"const": 2**63 - 1}, f"#/const holds {2**63 - 1}"),
    (record(id={"const": {"of": [BIG]}}), f"#/properties/id/const holds {BIG}"),
    (record(id={"type": "integer", "minimum": BIG, "maximum": BIG + 10}), f"minimum {BIG} and maximum {BIG + 10}"),
    ({"type": "string", "pattern": "^(?!a)b$"}, "the pattern '^(?!a)b$' at #/pattern can't be run: look-around"),
    ({"type": "string", "pattern": r"^(a)\1$"}, "at #/pattern can't be run: backreferences"),
    ({"type": "array", "items": {"pattern": "(?<=a)b"}}, "the pattern '(?<=a)b' at #/items/pattern"),
    ({"type": "object", "patternProperties": {"^(?=a)": {}}}, "the pattern '^(?=a)' at #/patternProperties"),
    ({"type": "string", "pattern": "["}, "the pattern '[' at #/pattern can't be run: unclosed"),
    ({"type": "array", "items": {"type": "boolean"}, "uniqueItems": True, "minItems": 3}, "at least 3 items"),
    ({"type": "thing"}, "thing"),
    ({"not": {"type": "string"}}, "not"),
    ({"type": "integer", "minimum": 5, "maximum": 3}, "minimum (5) is greater than maximum (3)"),
    ({"$ref": "#/$defs/absent"}, "/$defs/absent"),
]


@pytest.mark.parametrize(("schema", "said"), REFUSED, ids=str)
def test_what_can_not_be_kept_to_is_refused_by_name(known, schema, said):
    with pytest.raises(SchemaError, match=re.escape(said)) as refused:
        JsonConstraint(schema, known)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("levels", [48, 60, 200, 5000])
def test_a_schema_nests_only_so_deep(known, levels):
    schema: dict[str, Any] = {"type": "boolean"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema} if levels % 2 else record(a=schema)
    if levels == 48:
        JsonConstraint(schema, known)
    else:
        with pytest.raises(SchemaError, match="nests more than 100 levels"):
            JsonConstraint(schema, known)


@pytest.mark.parametrize("name", ["path", "binary", "password", "ipv4network", "color", "made-up", "regex"])
def test_a_format_that_is_not_known_is_an_annotation(matches, name):
    assert matches({"type": "string", "format": name, "maxLength": 4}, '"/a b"')


def test_the_formats_taken_for_known_are(known):
    for name in KNOWN_FORMATS:
        grammar = LLMatcher.grammar_from_json_schema(json.dumps({"type": "string", "format": name}))
        assert LLMatcher.validate_grammar(grammar, known) == ""


def test_a_decimal_of_pydantic(matches):
    pattern = r"^(?!^[-+.]*$)[+-]?0*\d*\.?\d*$"
    schema = {"anyOf": [{"type": "number"}, {"type": "string", "pattern": pattern}]}
    for text, right in (
        ('"1.50"', True),
        ('".5"', True),
        ("1.5", True),
        ('"."', False),
        ('"1e5"', False),
        ('""', False),
    ):
        assert matches(schema, text) is right, text


NAMED = [
    ({"maxLength": 3}, {"abc": 1, "a": 2}, {"abcd": 1}),
    ({"minLength": 2}, {"ab": 1}, {"a": 1}),
    ({"pattern": "^a+$"}, {"aa": 1}, {"ab": 1}),
    ({"enum": ["red", "blue"]}, {"red": 1, "blue": 2}, {"green": 1}),
    ({"$ref": "#/$defs/color"}, {"red": 1}, {"r": 1}),
]


@pytest.mark.parametrize(("names", "right", "wrong"), NAMED, ids=str)
def test_names_of_properties_are_kept_to(matches, names, right, wrong):
    integers = {"type": "object", "additionalProperties": {"type": "integer"}}
    schema = {**integers, "propertyNames": names, "$defs": {"color": {"enum": ["red"]}}}
    assert matches(schema, json.dumps(right, separators=(",", ":")))
    assert matches(schema, "{}")
    assert not matches(schema, json.dumps(wrong, separators=(",", ":")))


UNIQUE = {"type": "array", "uniqueItems": True}
WITHOUT_REPEATS = [
    ({**UNIQUE, "items": {"enum": ["a", "b", "c"]}}, ["a", "c", "b"], ["a", "a"]),
    ({**UNIQUE, "items": {"type": "boolean"}, "minItems": 1}, [True, False], []),
    ({**UNIQUE, "items": {"$ref": "#/$defs/e"}, "$defs": {"e": {"enum": [1, None]}}, "maxItems": 1}, [None], [1, None]),
    ({**UNIQUE, "items": {"type": "string"}}, ["a", "b"], ["a", "a"]),
    ({**UNIQUE, "items": {"type": "integer"}}, [1, 11], [1, 2, 1]),
    (record(a={"anyOf": [{**UNIQUE, "items": {"type": "string"}}, {"type": "null"}]}), {"a": ["a"]}, {"a": ["a", "a"]}),
    ({"type": "array", "items": {**UNIQUE, "items": {"type": "string"}}}, [["a"], ["a"]], [["a", "a"]]),
    ({"additionalProperties": {**UNIQUE, "items": {}}, "type": "object"}, {"x": [{}, 1]}, {"x": [{"a": 1}, {"a": 1}]}),
    (
        {"anyOf": [{**UNIQUE, "items": {"type": "string"}}, {"type": "array", "items": {"type": "integer"}}]},
        [1, 1],
        ["", ""],
    ),
    ({"type": "array", "uniqueItems": False, "items": {"type": "string"}}, ["a", "a"], [1]),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), WITHOUT_REPEATS, ids=str)
def test_arrays_without_repeats(matches, schema, right, wrong):
    assert matches(schema, json.dumps(right, separators=(",", ":")))
    assert not matches(schema, json.dumps(wrong, separators=(",", ":")))


CITY = {"properties": {"city": {"type": "string"}}}
CITY_AND_MORE = '{"city":"Oslo","more":1}'
LEFT_OPEN = {
    "told to be": CITY | {"additionalProperties": True},
    "by its type": CITY | {"additionalProperties": {"type": "integer"}},
    "by a pattern of names": CITY | {"patternProperties": {"^m": {"type": "integer"}}},
    "as more are needed": CITY | {"required": ["city"], "minProperties": 2},
    "as another is required": CITY | {"required": ["more"]},
    "as another part names more": {"allOf": [CITY, {"properties": {"more": {"type": "integer"}}}]},
    "as a branch names more": CITY | {"anyOf": [{"properties": {"more": {"type": "integer"}}}]},
    "naming none": {},
}


@pytest.mark.parametrize("schema", LEFT_OPEN.values(), ids=LEFT_OPEN)
def test_an_object_that_may_have_other_properties_gets_them(matches, schema):
    assert matches({"type": "object"} | schema, CITY_AND_MORE)


CLOSED = {
    "whole": ({"type": "object", **CITY}, "%s"),
    "in a list": ({"type": "array", "items": {"type": "object", **CITY}}, "[%s]"),
    "by its name": ({"$ref": "#/$defs/C", "$defs": {"C": {"type": "object", **CITY}}}, "%s"),
    "in a branch": ({"anyOf": [{"type": "object", **CITY}, {"type": "null"}]}, "%s"),
    "in another": ({"type": "object", "properties": {"at": {"type": "object", **CITY}}}, '{"at":%s}'),
}


@pytest.mark.parametrize(("schema", "around"), CLOSED.values(), ids=CLOSED)
def test_an_object_that_names_its_properties_gets_no_others(matches, schema, around):
    assert matches(schema, around % '{"city":"Oslo"}')
    assert not matches(schema, around % CITY_AND_MORE)
