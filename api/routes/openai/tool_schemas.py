"""Shapes of functions that a model may call, of what it is asked about them, and of the calls that it has made."""

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from api.routes.openai.tolerant import TolerantModel
from configs.strict import JsonObject

MOST_TOOLS = 128
FunctionName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]


def _a_function(kind: Any) -> Any:
    if isinstance(kind, str) and kind != "function":
        raise ValueError(f"it is {kind!r}, which is not supported: the tools of models here are functions")
    return kind


OfFunctions = Annotated[Literal["function"], BeforeValidator(_a_function)]


class CalledFunction(TolerantModel):
    """The function of a call that an assistant made."""

    name: FunctionName
    arguments: str = Field(description="JSON text of an object")

    @field_validator("arguments")
    @classmethod
    def _an_object(cls, text: str) -> str:
        try:
            is_object = isinstance(json.loads(text or "{}"), dict)
        except (ValueError, RecursionError):
            is_object = False
        if not is_object:
            raise ValueError(f"it is {text[:80]!r}, but must be the JSON text of an object")
        return text

    def rendered(self) -> dict[str, Any]:
        """Return what the model's chat template gets."""
        return {"name": self.name, "arguments": self.arguments}


class MessageToolCall(TolerantModel):
    """A call that an assistant made."""

    id: str
    type: OfFunctions = "function"
    function: CalledFunction

    def rendered(self) -> dict[str, Any]:
        """Return what the model's chat template gets."""
        return {"id": self.id, "type": "function", "function": self.function.rendered()}


class Function(TolerantModel):
    """A function that the model may call."""

    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="JSON schema of the arguments; none: it takes none")
    strict: bool | None = Field(None, description="A call, once begun, is held to the schema at every token")


class Tool(TolerantModel):
    """A tool that the model may use: a function."""

    type: OfFunctions
    function: Function

    def rendered(self) -> dict[str, Any]:
        """Return what the model's chat template gets."""
        known = self.function.model_dump(include={"name", "description", "parameters"}, exclude_none=True)
        return {"type": "function", "function": known}


class FunctionChoice(TolerantModel):
    """The name of a function."""

    name: FunctionName


class NamedTool(TolerantModel):
    """The function that is to be called."""

    type: OfFunctions
    function: FunctionChoice


class AllowedToolList(TolerantModel):
    """Some of the tools."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(min_length=1, max_length=MOST_TOOLS)]


class AllowedTools(TolerantModel):
    """The tools that may be used."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedToolList


def _known_choice(choice: Any) -> Any:
    kind = choice.get("type") if isinstance(choice, dict) else None
    if isinstance(kind, str) and kind not in ("function", "allowed_tools"):
        raise ValueError(f"it names a tool of the type {kind!r}, which is not supported: tools here are functions")
    return choice


ToolChoice = Annotated[Literal["auto", "none", "required"] | NamedTool | AllowedTools, BeforeValidator(_known_choice)]


class ToolUse(TolerantModel):
    """The fields of a chat that say which functions may be called, and how."""

    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = Field(
        None, description="Functions that the model may call, as its chat template writes them"
    )
    tool_choice: ToolChoice | None = Field(
        None,
        description="`auto`: the model decides. `none`: it is not told of the tools. `required`, or a function's name: "
        "the answer is calls, held to their schemas",
    )
    parallel_tool_calls: bool | None = Field(None, description="False: at most one call")
    functions: Annotated[list[Function], Field(max_length=MOST_TOOLS)] | None = Field(
        None, description="Older form of `tools`"
    )
    function_call: Literal["auto", "none"] | FunctionChoice | None = Field(
        None, description="Older form of `tool_choice`; calls are answered in the older form too"
    )

    @property
    def in_older_form(self) -> bool:
        """Whether calls are answered as `function_call`."""
        return bool(self.functions)

    @property
    def offered(self) -> list[Tool]:
        """The tools that the model is told of."""
        if "none" in (self.tool_choice, self.function_call):
            return []
        if self.functions:
            return [Tool(type="function", function=function) for function in self.functions]
        tools = self.tools or []
        if isinstance(self.tool_choice, AllowedTools):
            allowed = [one.function.name for one in self.tool_choice.allowed_tools.tools]
            return [tool for tool in tools if tool.function.name in allowed]
        return tools

    @property
    def offered_names(self) -> list[str]:
        """The names of the functions that the model is told of."""
        return [tool.function.name for tool in self.offered]

    @property
    def named_function(self) -> str | None:
        """The function that is to be called, if one is named."""
        if isinstance(self.tool_choice, NamedTool):
            return self.tool_choice.function.name
        return self.function_call.name if isinstance(self.function_call, FunctionChoice) else None

    def call_requirement(self) -> dict[str, Any] | None:
        """Return what the engine is asked of calls (`CallRequirement`); None: they are as the model writes them."""
        choice = self.tool_choice.allowed_tools.mode if isinstance(self.tool_choice, AllowedTools) else self.tool_choice
        required = choice == "required" or self.named_function is not None
        strict = [tool.function.name for tool in self.offered if tool.function.strict]
        one = self.parallel_tool_calls is False or self.named_function is not None or self.in_older_form
        if not self.offered or not (required or strict or self.parallel_tool_calls is False):
            return None
        return {"required": required, "name": self.named_function, "strict": strict, "parallel": not one}

    @model_validator(mode="after")
    def _one_way_to_offer(self) -> Self:
        if self.tools and self.functions:
            raise ValueError("functions are the older form of tools: give one of them")
        return self

    @model_validator(mode="after")
    def _choice_of_what_there_is(self) -> Self:
        if self.tool_choice not in (None, "auto", "none"):
            _require_offered(self, "tool_choice", "tools", self.tools)
        if isinstance(self.function_call, FunctionChoice):
            _require_offered(self, "function_call", "functions", self.functions)
        return self


def _require_offered(use: ToolUse, choice: str, field: str, given: Sequence[Any] | None) -> None:
    if not given:
        raise ValueError(f"{choice} is only allowed when {field} are given")
    known = [tool.function.name if isinstance(tool, Tool) else tool.name for tool in given]
    wanted = [use.named_function] if use.named_function is not None else []
    if isinstance(use.tool_choice, AllowedTools):
        wanted = [one.function.name for one in use.tool_choice.allowed_tools.tools]
    for name in wanted:
        if name not in known:
            raise ValueError(f"{choice} names {name!r}, which is none of the {field}: {', '.join(known)}")
