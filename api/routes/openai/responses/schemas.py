"""What `POST /v1/responses` takes; what has no effect here is accepted, and named in the answer's header."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StringConstraints, Tag

from api.routes.openai.choices import one_of, type_of
from api.routes.openai.responses.input_items import Input
from api.routes.openai.schemas import MOST_LOGPROBS, ModelName, Tokens
from api.routes.openai.tolerant import TolerantModel, TolerantRequest
from api.routes.openai.tool_schemas import MOST_TOOLS, FunctionName
from api.schemas import ResponseBody
from configs.strict import JsonObject

LOGPROBS = "message.output_text.logprobs"
MOST_LABELS = 16
Label = Annotated[str, StringConstraints(max_length=64)]
LabelValue = Annotated[str, StringConstraints(max_length=512)]
Labels = Annotated[dict[Label, LabelValue], Field(max_length=MOST_LABELS)]


class FunctionTool(TolerantModel):
    """A function that the model may call."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="JSON schema of the arguments")
    strict: bool | None = None

    def as_chat(self) -> dict[str, Any]:
        """Return it in the shape of chat completions."""
        given = self.model_dump(include={"name", "description", "parameters"}, exclude_none=True)
        return {"type": "function", "function": given | ({"strict": True} if self.strict else {})}


Tool = Annotated[
    Annotated[FunctionTool, Tag("function")],
    one_of(
        {"function": lambda tool: type_of(tool) == "function"},
        "only functions are tools here: web_search, file_search, computer_use, code_interpreter, image_generation, "
        "mcp, shell, apply_patch and custom tools are not supported",
    ),
]


class NamedFunction(TolerantModel):
    """A function, by its name."""

    type: Literal["function"]
    name: FunctionName


class AllowedTools(TolerantModel):
    """Some of the tools, of which the model may or must call one."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction] = Field(min_length=1, max_length=MOST_TOOLS)


ToolChoice = Annotated[
    Annotated[Literal["auto", "none", "required"], Tag("mode")]
    | Annotated[NamedFunction, Tag("function")]
    | Annotated[AllowedTools, Tag("allowed_tools")],
    one_of(
        {
            "mode": lambda choice: choice in ("auto", "none", "required"),
            "function": lambda choice: type_of(choice) == "function",
            "allowed_tools": lambda choice: type_of(choice) == "allowed_tools",
        },
        'it must be auto, none, required, {"type": "function", "name": …} or {"type": "allowed_tools", …}',
    ),
]


class PlainFormat(TolerantModel):
    """Any text, or any JSON object."""

    type: Literal["text", "json_object"]

    def as_chat(self) -> dict[str, Any]:
        """Return it in the shape of chat completions."""
        return {"type": self.type}


class SchemaFormat(TolerantModel):
    """JSON that matches a schema."""

    type: Literal["json_schema"]
    name: str = ""
    schema_: JsonObject = Field(alias="schema")
    description: str | None = None
    strict: bool | None = None

    def as_chat(self) -> dict[str, Any]:
        """Return it in the shape of chat completions."""
        schema = {"name": self.name, "schema": self.schema_}
        return {"type": "json_schema", "json_schema": schema | ({"strict": True} if self.strict else {})}


Format = Annotated[
    Annotated[PlainFormat, Tag("plain")] | Annotated[SchemaFormat, Tag("json_schema")],
    one_of(
        {
            "plain": lambda form: type_of(form) in ("text", "json_object"),
            "json_schema": lambda form: type_of(form) == "json_schema",
        },
        "its type must be text, json_object or json_schema",
    ),
]


class TextConfig(TolerantModel):
    """What the answer's text is."""

    format: Format | None = None


class ReasoningConfig(TolerantModel):
    """How much the model thinks, as far as its chat template has it."""

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None


class ConversationName(TolerantModel):
    """The conversation that the response belongs to."""

    id: str


PASSED_ON = (
    "top_k",
    "min_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "stop",
    "stop_token_ids",
    "min_tokens",
    "ignore_eos",
    "chat_template_kwargs",
)
"""Fields that are those of chat completions."""


def _no_template(given: Any) -> None:
    if given is not None:
        raise ValueError("templates of prompts are not supported: write what they say as instructions and input")


def _by_id(given: Any) -> Any:
    return {"id": given} if isinstance(given, str) else given


ConversationOf = Annotated[ConversationName, BeforeValidator(_by_id, json_schema_input_type=str | ConversationName)]


class StreamOptions(TolerantModel):
    """Nothing that has an effect here."""


class PromptRequest(TolerantRequest):
    """What the prompt is made of: enough to count its tokens."""

    model: ModelName = Field(description="Name of a model, as `GET /v1/models` lists it")
    input: Input | None = Field(None, description="A text, or items", max_length=10_000)
    instructions: str | None = Field(None, description="A system message before all others")
    previous_response_id: str | None = Field(None, description="The response that this one goes on from")
    conversation: ConversationOf | None = None
    tools: Annotated[list[Tool], Field(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None
    truncation: Literal["auto", "disabled"] | None = None


class ResponseRequest(PromptRequest):
    """What the model is to answer, and how."""

    max_output_tokens: Tokens | None = None
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy; 1 if left out")
    top_p: float | None = Field(None, gt=0, le=1)
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS, description=f"Needs `{LOGPROBS}` in `include`")
    include: list[str] | None = Field(None, max_length=64, description=f"`{LOGPROBS}`; others add nothing here")
    metadata: Labels | None = None
    user: str | None = Field(None, max_length=512)
    store: bool | None = Field(None, description="Kept for later requests unless false")
    background: bool | None = Field(None, description="Answer at once, go on without the client")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt: Annotated[None, BeforeValidator(_no_template)] = Field(None, description="Not supported")
    # What chat completions take beside OpenAI's own; read by them.
    top_k: Any = Field(None, description="As of chat completions, as all that follow; not OpenAI's")
    min_p: Any = None
    repetition_penalty: Any = None
    presence_penalty: Any = None
    frequency_penalty: Any = None
    logit_bias: Any = None
    seed: Any = None
    stop: Any = None
    stop_token_ids: Any = None
    min_tokens: Any = None
    ignore_eos: Any = None
    chat_template_kwargs: Any = None

    @property
    def with_logprobs(self) -> bool:
        """Whether the answer shows log-probabilities."""
        return LOGPROBS in (self.include or [])


class InputTokens(ResponseBody):
    """How many tokens a prompt has."""

    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int


class ResponseDeleted(ResponseBody):
    """Answer to a deletion."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


def without_effect(body: ResponseRequest) -> list[str]:
    """Return the names of known fields whose values add nothing here."""
    names = [f"include.{one}" for one in body.include or [] if one != LOGPROBS]
    return [*names, "top_logprobs"] if body.top_logprobs and not body.with_logprobs else names
