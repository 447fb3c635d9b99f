"""What `POST /v1/messages` takes: messages of blocks, tools, and how the model answers."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, Tag

from api.routes.openai.choices import one_of, type_of
from api.routes.openai.schemas import ModelName, Tokens
from api.routes.openai.tolerant import TolerantModel, TolerantRequest
from api.routes.openai.tool_schemas import MOST_TOOLS, FunctionName
from api.schemas import ResponseBody
from configs.strict import JsonObject

MOST_STOPS = 64


class TextBlock(TolerantModel):
    """A piece of text."""

    type: Literal["text"]
    text: str


class ThinkingBlock(TolerantModel):
    """What the model thought before an answer."""

    type: Literal["thinking"]
    thinking: str


class RedactedThinking(TolerantModel):
    """Thoughts that only their maker can read: of no use here."""

    type: Literal["redacted_thinking"]


class ToolUse(TolerantModel):
    """A call that the model has made."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: JsonObject


def _as_blocks(content: Any) -> Any:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


TEXT_ONLY = "models here read text only: image, document and other blocks are not supported"
Text = Annotated[Annotated[TextBlock, Tag("text")], one_of({"text": lambda one: type_of(one) == "text"}, TEXT_ONLY)]
Texts = Annotated[list[Text], BeforeValidator(_as_blocks, json_schema_input_type=str | list[Text])]


class ToolResult(TolerantModel):
    """What a call returned."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: Texts | None = None
    is_error: bool | None = None


def _kind(kind: str) -> Any:
    return lambda block: type_of(block) == kind


KINDS = ("text", "thinking", "redacted_thinking", "tool_use", "tool_result")
Block = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[RedactedThinking, Tag("redacted_thinking")]
    | Annotated[ToolUse, Tag("tool_use")]
    | Annotated[ToolResult, Tag("tool_result")],
    one_of({kind: _kind(kind) for kind in KINDS}, TEXT_ONLY),
]
Blocks = Annotated[list[Block], BeforeValidator(_as_blocks, json_schema_input_type=str | list[Block])]


class InputMessage(TolerantModel):
    """One turn."""

    role: Literal["user", "assistant"]
    content: Blocks


class CustomTool(TolerantModel):
    """A function that the model may call."""

    type: Literal["custom"] | None = None
    name: FunctionName
    description: str | None = None
    input_schema: JsonObject

    def as_chat(self) -> dict[str, Any]:
        """Return it in the shape of chat completions."""
        function = {"name": self.name, "description": self.description, "parameters": self.input_schema}
        return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


Tool = Annotated[
    Annotated[CustomTool, Tag("custom")],
    one_of(
        {"custom": lambda tool: type_of(tool) in ("custom", None)},
        "only tools with an input_schema are supported: web_search, code_execution, bash, text_editor, computer and "
        "other tools of Anthropic's own are not",
    ),
]


class ToolChoice(TolerantModel):
    """Whether the model may, must or must not call, and which tool."""

    type: Literal["auto", "any", "tool", "none"]
    name: FunctionName | None = None
    disable_parallel_tool_use: bool | None = None


class Thinking(TolerantModel):
    """Whether the model thinks first, where its chat template has a switch for that."""

    type: Literal["enabled", "disabled", "adaptive"]


class CountRequest(TolerantRequest):
    """What a prompt is made of."""

    model: ModelName = Field(description="Name of a model, as `GET /v1/models` lists it")
    messages: list[InputMessage] = Field(min_length=1, max_length=100_000)
    system: Texts | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None


class MessagesRequest(CountRequest):
    """What the model is to answer, and how."""

    max_tokens: Tokens
    stop_sequences: Annotated[list[str], Field(max_length=MOST_STOPS)] | None = None
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy; 1 if left out")
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_000_000)
    stream: bool | None = None
    mcp_servers: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported")


class TokenCount(ResponseBody):
    """How many tokens a prompt has."""

    input_tokens: int
