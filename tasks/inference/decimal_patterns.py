r"""The patterns that pydantic writes for a `Decimal`, without their look-ahead, which the grammar engine can't run.

They are `get_decimal_pattern` of pydantic's `json_schema.py` (2.12): sign and zeros, then digits as `max_digits` and
`decimal_places` allow. `(?!^[-+.]*$)` says that there is a digit at all. Where the original forgets to ask for the end
of the text, it is asked for here.
"""

import re

_BEGIN = re.escape(r"^(?!^[-+.]*$)[+-]?0*")
_FREE = re.compile(_BEGIN + re.escape(r"\d*\.?\d*$"))
_PLACES = re.compile(_BEGIN + re.escape(r"\d*\.?\d{0,") + r"(\d+)" + re.escape(r"}0*$"))
_DIGITS = re.compile(
    _BEGIN
    + re.escape(r"(?:\d{0,")
    + r"(\d+)"
    + re.escape(r"}|(?=[\d.]{1,")
    + r"(\d+)"
    + re.escape(r"}0*$)\d*\.\d*0*$)")
)
_BOTH = re.compile(
    _BEGIN
    + re.escape(r"(?:\d{0,")
    + r"(\d+)"
    + re.escape(r"}|(?=[\d.]{1,")
    + r"(\d+)"
    + re.escape(r"}0*$)\d{0,")
    + r"(\d+)"
    + re.escape(r"}\.\d{0,")
    + r"(\d+)"
    + re.escape(r"}0*$)")
)
MOST_DIGITS = 100
"""More than that, and the pattern, which lists where the point may stand, is not worth it."""


def without_look_ahead(pattern: str) -> str | None:
    """Return a pattern for the same numbers that looks nowhere ahead; None for one that is not pydantic's."""
    if _FREE.fullmatch(pattern):
        return r"^[+-]?(?:\d+\.?\d*|\.\d+)$"
    if found := _PLACES.fullmatch(pattern):
        places = int(found[1])
        return rf"^[+-]?(?:\d+(?:\.{_digits(places)}0*)?|{_fraction(places)})$"
    if found := _DIGITS.fullmatch(pattern):
        most = int(found[1])
        splits = [(before, most - before) for before in range(most + 1)]
    elif found := _BOTH.fullmatch(pattern):
        most, places = int(found[1]), int(found[4])
        splits = [(most, min(places, int(found[2]) - 1))]
    else:
        return None
    if most > MOST_DIGITS:
        return None
    choices = [_whole(most), *(rf"{_whole(before)}\.{_digits(after)}0*" for before, after in splits)]
    choices += [rf"0*{_fraction(after)}" for _, after in splits]
    return rf"^[+-]?(?:{'|'.join(dict.fromkeys(choices))})$"


def _whole(most: int) -> str:
    """Digits before the point, at least one, `most` behind the leading zeros."""
    return rf"(?:0+{_digits(most)}|\d{{1,{most}}})" if most else "0+"


def _fraction(places: int) -> str:
    """The point and digits after it, at least one, with zeros beyond the `places`."""
    return rf"\.\d{{1,{places}}}0*" if places else r"\.0+"


def _digits(most: int) -> str:
    return rf"\d{{0,{most}}}" if most else ""
