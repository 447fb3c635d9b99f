"""The base of everything that people and clients fill in: nothing is coerced, nothing unknown is ignored."""

import math
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


class StrictModel(BaseModel):
    """Unknown fields are refused, values are not coerced, NaN and infinity are no numbers."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _whole_floats_are_integers(cls, values: Any) -> Any:
        """JSON knows one kind of number: some clients write 3 as 3.0."""
        if not isinstance(values, dict):
            return values
        return {name: as_integer(value) for name, value in values.items()}


def as_integer(value: Any) -> Any:
    """Return a whole float as the integer that it is, and anything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _plain_json(value: Any) -> Any:
    """Return a value that is not described further, if it can be written as JSON again; raise ValueError if not."""
    if isinstance(value, dict):
        for name, own in value.items():
            _plain_json(name)
            _plain_json(own)
    elif isinstance(value, list):
        for own in value:
            _plain_json(own)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it must hold finite numbers only, not NaN or infinity")
    elif isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ValueError("its texts must be Unicode, without half of a surrogate pair") from error
    return value


JsonObject = Annotated[dict[str, Any], AfterValidator(_plain_json)]
"""Any JSON object: `StrictModel` says nothing of what lies within one. How deep it nests is bounded by the request."""
