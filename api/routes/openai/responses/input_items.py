"""The items that a client sends: messages, calls with their outputs, reasoning, references to stored items."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, Tag

from api.routes.openai.choices import one_of, type_of
from api.routes.openai.tolerant import TolerantModel

ItemId = Annotated[str, StringConstraints(max_length=200)]
CallId = Annotated[str, StringConstraints(min_length=1, max_length=200)]
ItemStatus = Literal["in_progress", "completed", "incomplete"]
ITEM_KINDS = ("message", "function_call", "function_call_output", "reasoning", "item_reference")
TEXT_KINDS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class Text(TolerantModel):
    """A piece of text."""

    type: Literal["input_text", "output_text", "text", "summary_text", "reasoning_text"]
    text: str


class Refusal(TolerantModel):
    """What a model said in refusing."""

    type: Literal["refusal"]
    refusal: str


def _as_parts(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


Part = Annotated[
    Annotated[Text, Tag("text")] | Annotated[Refusal, Tag("refusal")],
    one_of(
        {
            "text": lambda part: type_of(part) in TEXT_KINDS,
            "refusal": lambda part: type_of(part) == "refusal",
        },
        "models here read text only: a part is an input_text, an output_text or a refusal",
    ),
]
Parts = Annotated[list[Part], BeforeValidator(_as_parts, json_schema_input_type=str | list[Part])]


class Message(TolerantModel):
    """A turn of somebody's."""

    type: Literal["message"] = "message"
    id: ItemId | None = None
    role: Literal["user", "system", "developer", "assistant"]
    content: Parts
    status: ItemStatus | None = None


class FunctionCall(TolerantModel):
    """A call that the model has made."""

    type: Literal["function_call"]
    id: ItemId | None = None
    call_id: CallId
    name: str
    arguments: str = Field(description="JSON text of an object")
    status: ItemStatus | None = None


class FunctionCallOutput(TolerantModel):
    """What a call returned."""

    type: Literal["function_call_output"]
    id: ItemId | None = None
    call_id: CallId
    output: Parts
    status: ItemStatus | None = None


class Reasoning(TolerantModel):
    """What the model thought before an answer; chat templates are not given it again."""

    type: Literal["reasoning"]
    id: ItemId | None = None
    summary: list[Text] | None = None
    content: list[Text] | None = None
    status: ItemStatus | None = None


class ItemReference(TolerantModel):
    """An item that is stored, by its id."""

    type: Literal["item_reference"] | None = None
    id: ItemId


def _is(kind: str) -> Callable[[Any], bool]:
    return lambda item: type_of(item) == kind


def _is_reference(item: Any) -> bool:
    untyped = isinstance(item, dict) and item.get("type") is None and "role" not in item
    return isinstance(item, ItemReference) or type_of(item) == "item_reference" or untyped


Item = Annotated[
    Annotated[Message, Tag("message")]
    | Annotated[FunctionCall, Tag("function_call")]
    | Annotated[FunctionCallOutput, Tag("function_call_output")]
    | Annotated[Reasoning, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")],
    one_of(
        {
            "item_reference": _is_reference,
            "message": lambda item: type_of(item) in ("message", None),
            "function_call": _is("function_call"),
            "function_call_output": _is("function_call_output"),
            "reasoning": _is("reasoning"),
        },
        f"an item's type is one of {', '.join(ITEM_KINDS)}",
    ),
]


def _as_items(given: Any) -> Any:
    return [{"role": "user", "content": given}] if isinstance(given, str) else given


Input = Annotated[list[Item], BeforeValidator(_as_items, json_schema_input_type=str | list[Item])]
"""A text is one message of the user's."""
