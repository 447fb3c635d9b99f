"""Shapes of OpenAI's API, as its SDK and other clients send and read them; `tolerant` says what else they may hold."""

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict
from pydantic.json_schema import SkipJsonSchema

from api.routes.models.schemas import StopString, StopStrings
from api.routes.openai.tolerant import TolerantModel, TolerantRequest
from api.routes.openai.tool_schemas import CalledFunction, MessageToolCall, ToolUse
from api.schemas import ResponseBody
from configs.chat_format import TemplateArguments
from configs.strict import JsonObject, as_integer

MOST_CHOICES = 128
MOST_LOGPROBS = 20
LEAST_TOP_P = 1e-9
"""A nucleus that holds the likeliest token alone."""
MOST_BIASED = 1024
DEFAULT_COMPLETION_TOKENS = 16
ModelName = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Tokens = Annotated[int, Field(ge=1, le=1_048_576)]
TokenId = Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(as_integer)]
# A list of a million wrong items is wrong at its first one.
TokenIds = Annotated[list[TokenId], Field(min_length=1, fail_fast=True)]
Prompt = TypeVar("Prompt")
Prompts = Annotated[list[Prompt], Field(min_length=1, fail_fast=True)]
TokenKey = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,10}$")]
TokenBias = Annotated[float, Field(ge=-100, le=100)]


# What the validators below refuse, for clients that read the schema.
STREAMED_PROMPT: JsonDict = {
    "required": ["stream", "prompt_logprobs"],
    "properties": {"stream": {"const": True}, "prompt_logprobs": {"type": "integer"}},
}
TOP_WITHOUT_LOGPROBS: JsonDict = {
    "required": ["top_logprobs"],
    "properties": {"top_logprobs": {"type": "integer"}, "logprobs": {"not": {"const": True}}},
}


def _off_at_minus_one(value: Any) -> Any:
    """vLLM's and others' way to say that a limit or a seed is not given."""
    return None if value == -1 and not isinstance(value, bool) else value


def _stops(value: Any) -> Any:
    """Return stop strings without the empty ones, which would end an answer before it begins."""
    if isinstance(value, str):
        return value or None
    return [one for one in value if one != ""] if isinstance(value, list) else value


OffAtMinusOne = BeforeValidator(_off_at_minus_one)


class StreamOptions(TolerantModel):
    """What a stream carries beside the text."""

    include_usage: bool = Field(False, description="A last chunk without choices has the token counts")


class GenerationOptions(TolerantRequest):
    """What completions and chat have in common."""

    model: ModelName = Field(description="Name of a model, as `GET /v1/models` lists it")
    temperature: float | None = Field(None, ge=0, le=100, description="0 is greedy; 1 if left out")
    top_p: float | None = Field(None, ge=0, le=1, description="0 leaves the likeliest token")
    top_k: Annotated[int | None, OffAtMinusOne] = Field(
        None, ge=0, le=1_000_000, description="0 and -1 are off; not OpenAI's"
    )
    min_p: float = Field(0.0, ge=0, le=1, description="Least share of the likeliest token's probability; not OpenAI's")
    repetition_penalty: float = Field(1.0, gt=0, le=100, description="Not OpenAI's")
    n: int | None = Field(None, ge=1, le=MOST_CHOICES, description="Answers per prompt; 1 if left out")
    seed: Annotated[int | None, OffAtMinusOne] = Field(
        None, ge=-(2**63), lt=2**63, description="Same seed, same text; answer i of n has seed + i; -1: any"
    )
    stop: Annotated[StopString | StopStrings | None, BeforeValidator(_stops)] = Field(
        None, description="Ends the text before these"
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    presence_penalty: float | None = Field(None, ge=-2, le=2, description="Against tokens that came in the answer")
    frequency_penalty: float | None = Field(None, ge=-2, le=2, description="Against them for each time that they came")
    logit_bias: dict[TokenKey, TokenBias] | None = Field(
        None, max_length=MOST_BIASED, description="What is added to the logits of these token ids"
    )
    min_tokens: int = Field(0, ge=0, le=1_048_576, description="Nothing ends the answer before so many; not OpenAI's")
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MOST_BIASED)] | None = Field(
        None, description="Token ids that end the answer and are not part of it; not OpenAI's"
    )
    prompt_logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="Likeliest tokens beside each of the prompt's own; not OpenAI's"
    )
    ignore_eos: bool = Field(False, description="Only `stop`, `stop_token_ids` and the limit end it; not OpenAI's")
    best_of: SkipJsonSchema[int | None] = Field(None, ge=1)
    """As `n`, if at all, which a schema can't say: all answers that are made are returned."""

    @property
    def answers(self) -> int:
        """How many answers each prompt gets."""
        return self.n or 1

    @model_validator(mode="after")
    def _prompt_at_once(self) -> Self:
        if self.stream and self.prompt_logprobs is not None:
            raise ValueError("prompt_logprobs can't be streamed: leave out stream")
        return self

    def sampling(self) -> dict[str, Any]:
        """Return what the engine's request takes, with OpenAI's defaults."""
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": 1.0 if self.top_p is None else self.top_p or LEAST_TOP_P,
            "top_k": self.top_k or 0,
            "min_p": self.min_p,
            "repetition_penalty": self.repetition_penalty,
            "frequency_penalty": self.frequency_penalty or 0.0,
            "presence_penalty": self.presence_penalty or 0.0,
            "logit_bias": {int(token_id): bias for token_id, bias in (self.logit_bias or {}).items()},
            "min_new_tokens": self.min_tokens,
            "stop_token_ids": self.stop_token_ids or [],
            "ignore_eos": self.ignore_eos,
            "stop": [self.stop] if isinstance(self.stop, str) else self.stop or [],
        }

    def seed_of(self, answer: int) -> int | None:
        """Return the seed of answer number `answer` of a prompt."""
        return None if self.seed is None else (self.seed + answer) % 2**63

    @model_validator(mode="after")
    def _as_many_as_are_returned(self) -> Self:
        if self.best_of not in (None, self.answers):
            raise ValueError(
                f"best_of is {self.best_of}, and n is {self.answers}: all answers that are made are returned, so both "
                "must be the same"
            )
        return self


class CompletionRequest(GenerationOptions):
    """Text or token ids to continue."""

    model_config = ConfigDict(json_schema_extra={"not": STREAMED_PROMPT})

    prompt: str | Prompts[str] | TokenIds | Prompts[TokenIds] = Field(
        description="One prompt or several, as text or ids"
    )
    max_tokens: Annotated[Annotated[int, Field(ge=0, le=1_048_576)] | None, OffAtMinusOne] = Field(
        None,
        description=f"{DEFAULT_COMPLETION_TOKENS} if left out; 0 only reads the prompt",
    )
    logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS, description="Likeliest tokens shown beside each")
    echo: bool | None = Field(None, description="Put the prompt before the answer; with `logprobs`, its tokens too")

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts, one each."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [[token for token in self.prompt if isinstance(token, int)]]
        return [one for one in self.prompt if not isinstance(one, int)]


class TextPart(TolerantModel):
    """A piece of a message's content, as chat, the responses API and our own answers write it."""

    type: Literal["text", "input_text", "output_text", "refusal"]
    text: str

    @model_validator(mode="before")
    @classmethod
    def _of_text(cls, part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        kind = part.get("type")
        if isinstance(kind, str) and kind not in ("text", "input_text", "output_text", "refusal"):
            raise ValueError(
                f"it must be of the type text: models here read text only, and this is of the type {kind!r}"
            )
        return part | {"text": part["refusal"]} if kind == "refusal" and "refusal" in part else part


class ChatMessage(TolerantModel):
    """One turn of the conversation; the assistant's as we, OpenAI and vLLM write them."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[TextPart] | None = None
    refusal: str | None = Field(None, description="Of an assistant's turn: what it said instead of an answer")
    name: str | None = None
    tool_calls: list[MessageToolCall] | None = Field(None, description="Of an assistant's turn")
    function_call: CalledFunction | None = Field(None, description="Of an assistant's turn: older form of one call")
    tool_call_id: str | None = Field(None, description="Of a tool's turn: the call that it answers")
    reasoning_content: str | None = Field(None, description="Of an assistant's turn: what it thought; not OpenAI's")
    reasoning: str | None = Field(None, description="Another name of `reasoning_content`")

    def rendered(self) -> dict[str, Any]:
        """Return what the model's chat template gets."""
        content = self.content or self.refusal or ""
        text = content if isinstance(content, str) else "".join(part.text for part in content)
        # The older name is the one that chat templates know.
        turn: dict[str, Any] = {"role": "system" if self.role == "developer" else self.role, "content": text}
        if self.tool_calls:
            turn |= {"content": text or None, "tool_calls": [call.rendered() for call in self.tool_calls]}
        elif self.function_call is not None:
            turn |= {"content": text or None, "function_call": self.function_call.rendered()}
        if self.tool_call_id is not None:
            turn["tool_call_id"] = self.tool_call_id
        if self.name is not None:
            turn["name"] = self.name
        if self.role == "assistant" and (reasoning := self.reasoning_content or self.reasoning):
            turn["reasoning_content"] = reasoning
        return turn

    @model_validator(mode="after")
    def _of_their_roles(self) -> Self:
        for field in ("tool_calls", "function_call"):
            if getattr(self, field) and self.role != "assistant":
                raise ValueError(f"{field} are for an assistant's message, and this is the {self.role}'s")
        return self


class JsonSchema(TolerantModel):
    """A schema that the answer keeps to."""

    name: str = ""
    description: str | None = None
    schema_: JsonObject = Field(default_factory=dict, alias="schema")
    strict: bool | None = None


class TextFormat(TolerantModel):
    """Any text."""

    type: Literal["text"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        """Return the JSON schema that the answer must match; None for free text."""
        return None


class JsonObjectFormat(TolerantModel):
    """Any JSON object."""

    type: Literal["json_object"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        """Return the JSON schema that the answer must match."""
        return {"type": "object"}


class JsonSchemaFormat(TolerantModel):
    """JSON that matches a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    def schema_of_answer(self) -> dict[str, Any] | None:
        """Return the JSON schema that the answer must match."""
        return self.json_schema.schema_


ResponseFormat = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]


class ChatRequest(GenerationOptions, ToolUse):
    """A conversation to go on with."""

    model_config = ConfigDict(json_schema_extra={"not": {"anyOf": [TOP_WITHOUT_LOGPROBS, STREAMED_PROMPT]}})

    messages: list[ChatMessage] = Field(min_length=1, fail_fast=True)
    max_tokens: Annotated[Tokens | None, OffAtMinusOne] = Field(None, description="Older name of the next")
    max_completion_tokens: Annotated[Tokens | None, OffAtMinusOne] = Field(
        None, description="What the model's context leaves, if left out"
    )
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MOST_LOGPROBS, description="Needs `logprobs`")
    response_format: ResponseFormat | None = None
    chat_template_kwargs: TemplateArguments | None = Field(
        None, description='What the chat template is given besides, such as {"enable_thinking": false}; not OpenAI\'s'
    )

    reasoning_effort: str | None = Field(
        None, description="Given to the chat template, which may read it; `none` turns thinking off where it can be"
    )
    add_generation_prompt: bool = Field(True, description="Begin the assistant's turn; not OpenAI's")
    continue_final_message: bool = Field(
        False, description="Go on with the last message, with `add_generation_prompt: false`; not OpenAI's"
    )

    @property
    def limit(self) -> int | None:
        """How many tokens an answer may have; None: as many as the model's context leaves."""
        return self.max_completion_tokens or self.max_tokens

    def template_arguments(self) -> dict[str, Any]:
        """Return what the chat template is given beside messages and tools."""
        effort = self.reasoning_effort
        thinking = {"enable_thinking": False} if effort == "none" else {}
        told = {} if effort in (None, "none") else {"reasoning_effort": effort}
        return thinking | told | (self.chat_template_kwargs or {})

    @model_validator(mode="after")
    def _logprobs_asked_for(self) -> Self:
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs: true")
        return self

    @model_validator(mode="after")
    def _one_way_to_begin(self) -> Self:
        if not self.continue_final_message:
            return self
        if self.add_generation_prompt:
            raise ValueError(
                "continue_final_message is true, and so is add_generation_prompt: an answer goes on with the last "
                "message, or begins a turn"
            )
        if self.messages[-1].tool_calls or not self.messages[-1].rendered()["content"]:
            raise ValueError("continue_final_message is true, but the last message has no text to go on with")
        return self


class ModelObject(ResponseBody):
    """A model, as `GET /v1/models` lists it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "llm-platform"


class ModelObjects(ResponseBody):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelObject]


class ModelDeleted(ResponseBody):
    """Answer to a deletion."""

    id: str
    object: Literal["model"] = "model"
    deleted: Literal[True] = True


class CompletionTokensDetails(ResponseBody):
    """What an answer's tokens were."""

    reasoning_tokens: int


class CompletionUsage(ResponseBody):
    """Token counts of an answer; a prompt with several answers counts once."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    completion_tokens_details: CompletionTokensDetails | None = Field(None, description="Of conversations")
