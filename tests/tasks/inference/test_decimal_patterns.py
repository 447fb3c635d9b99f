"""Pydantic's patterns for decimals without their look-ahead: the same texts match, but for trailing rubbish."""

import re
from decimal import Decimal
from itertools import product

import pytest
from pydantic import TypeAdapter

from tasks.inference.decimal_patterns import without_look_ahead

BEGIN = r"^(?!^[-+.]*$)[+-]?0*"
TEXTS = ["".join(letters) for length in range(7) for letters in product("+-.017", repeat=length)]


def pydantics(max_digits: int | None, decimal_places: int | None) -> str:
    """What pydantic 2.12's `get_decimal_pattern` returns."""
    if max_digits is None:
        return BEGIN + (r"\d*\.?\d*$" if decimal_places is None else rf"\d*\.?\d{{0,{decimal_places}}}0*$")
    ahead = rf"(?=[\d.]{{1,{max_digits + 1}}}0*$)"
    if decimal_places is None:
        return BEGIN + rf"(?:\d{{0,{max_digits}}}|{ahead}\d*\.\d*0*$)"
    whole = max(0, max_digits - decimal_places)
    return BEGIN + rf"(?:\d{{0,{whole}}}|{ahead}\d{{0,{whole}}}\.\d{{0,{decimal_places}}}0*$)"


@pytest.mark.parametrize("decimal_places", [None, 0, 1, 2, 4])
@pytest.mark.parametrize("max_digits", [None, 1, 2, 3, 5])
def test_the_same_texts_match(max_digits, decimal_places):
    original = pydantics(max_digits, decimal_places)
    plain = without_look_ahead(original)
    assert "(?=" not in plain
    assert "(?!" not in plain
    ours, theirs = re.compile(plain, re.ASCII), re.compile(original, re.ASCII)
    differing = [text for text in TEXTS if bool(ours.search(text)) != bool(theirs.fullmatch(text))]
    assert differing == []
    matching = [text for text in TEXTS if ours.search(text)]
    assert len(matching) > 100
    assert all(Decimal(text).is_finite() for text in matching)


def test_the_installed_pydantic_writes_none_that_is_not_known():
    for text in re.findall(r'"pattern": *"([^"]*)"', str(TypeAdapter(Decimal).json_schema())):
        assert without_look_ahead(text) is not None


@pytest.mark.parametrize("pattern", [r"^(?!a)b$", r"^(?=.*\d).+$", BEGIN, pydantics(1000, None), r"^\d+$"])
def test_other_patterns_are_not_touched(pattern):
    assert without_look_ahead(pattern) is None
