"""The base of everything that people and clients fill in: nothing is coerced, nothing unknown is ignored."""

from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator


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
