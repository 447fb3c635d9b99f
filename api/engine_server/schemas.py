"""The requests and responses between the API and the engine's process; importable without torch."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from typing_extensions import TypedDict

DEFAULT_MAX_LENGTH = 100
"""Tokens of prompt and continuation together that the documented API asks for when its request names no limit."""

StopString = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
FinishReason = Literal["stop", "length", "cancelled"]
ErrorCode = Literal["prompt_too_long", "busy", "closed", "timeout", "weights", "invalid", "failed"]


class EngineModelName(BaseModel):
    """What every request names: the model in a local folder."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str = Field("", description="What a backend calls these weights; the engine does not need it")
    weights: str = Field(min_length=1, description="Absolute path of the base model's folder")
    adapter: str | None = Field(None, min_length=1, description="Absolute path of the adapter's folder")
    chat_format: dict[str, Any] | None = Field(
        None, description="`configs.chat_format.ChatFormat` in the place of the base model's own"
    )


class EngineInput(EngineModelName):
    """The model, and one text."""

    prompt: str | None = Field(None, description="Raw text, without a chat template")
    prompt_ids: list[int] | None = Field(None, min_length=1, description="Or token ids")

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        names = [name for name in ("prompt", "prompt_ids", "messages") if name in type(self).model_fields]
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"give exactly one of {' and '.join(names)}")
        return self


class EngineConversation(EngineInput):
    """One of `prompt`, `prompt_ids` and `messages`."""

    messages: list[dict[str, Any]] | None = Field(
        None, min_length=1, description="Or a conversation in OpenAI's format, rendered by the model's chat template"
    )
    tools: list[dict[str, Any]] | None = Field(None, min_length=1, description="Tools that the template is given")
    chat_template_kwargs: dict[str, Any] | None = Field(None, description="What the template is given besides")
    add_generation_prompt: bool = Field(True, description="Begin the assistant's turn after the messages")
    continue_final_message: bool = Field(False, description="Go on with the last message's own text")


class EngineTokenizeRequest(EngineConversation):
    """Tokenize one of `prompt` and `messages`, or tell the text of `prompt_ids`."""

    add_special_tokens: bool = Field(True, description="Of a prompt: with those that the tokenizer adds by itself")


class EngineTokens(BaseModel):
    """Token ids, the text that each is by itself, the text of all, and the model's context in tokens."""

    ids: list[int]
    pieces: list[str]
    text: str
    context: int


class CallRequirement(BaseModel):
    """What the calls in an answer keep to."""

    model_config = ConfigDict(extra="forbid")

    required: bool = Field(False, description="The answer is calls, held to their schemas")
    name: str | None = Field(None, description="Of this function alone")
    strict: list[str] = Field([], description="The functions whose calls, if there are any, are held to their schemas")
    parallel: bool = Field(True, description="More than one call may come")


class EngineGenerateRequest(EngineConversation):
    """Continue one of `prompt`, `prompt_ids` and `messages`."""

    temperature: float = Field(0.7, ge=0, le=100, description="0 is greedy")
    max_length: int | None = Field(None, ge=1, description="Tokens of prompt and continuation together")
    max_new_tokens: int | None = Field(
        None,
        ge=0,
        description="Tokens of the continuation; wins over max_length. Without both: what context and cache leave",
    )
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(50, ge=0, description="0 is off")
    min_p: float = Field(0.0, ge=0, le=1, description="Least share of the likeliest token's probability; 0 is off")
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    frequency_penalty: float = Field(0.0, ge=-2, le=2, description="Taken off a logit for each time its token came")
    presence_penalty: float = Field(0.0, ge=-2, le=2, description="Taken off the logits of tokens that came")
    logit_bias: dict[int, Annotated[float, Field(ge=-100, le=100)]] = Field(
        {}, description="Added to these ids' logits"
    )
    min_new_tokens: int = Field(0, ge=0, description="Nothing ends the answer before it has so many tokens")
    stop_token_ids: list[int] = Field([], description="Ids that end the answer, beside the model's own")
    ignore_eos: bool = Field(False, description="The model's own ends do not end the answer")
    seed: int | None = Field(None, ge=0, lt=2**63, description="Same seed, same text")
    logprobs: int | None = Field(None, ge=0, le=20, description="Likeliest tokens to show beside each one")
    prompt_logprobs: int | None = Field(None, ge=0, le=20, description="The same of the prompt's own tokens")
    echo: bool = Field(False, description="Return the prompt's text too, decoded if it was given as ids")
    json_schema: dict[str, Any] | None = Field(None, description="JSON schema that the continuation must match")
    calls: CallRequirement | None = Field(None, description="What calls keep to; none: what the model writes")
    stop: list[StopString] = Field([], max_length=64, description="The continuation ends before the first of these")
    stream: bool = False


class EngineEmbedRequest(EngineInput):
    """Average the hidden states of one of `prompt` and `prompt_ids`."""


class Usage(BaseModel):
    """What a generation took: token counts (without the end-of-text token), why it ended, and seconds."""

    prompt_tokens: int
    generated_tokens: int
    reasoning_tokens: int = Field(0, description="How many of the generated tokens were reasoning")
    finish_reason: FinishReason
    seconds: float
    stop_string: str | None = Field(None, description="The one of `stop` that ended it")


class TopLogprob(BaseModel):
    """A token that might have come, and its natural log-probability under the model itself, before any sampling."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(TopLogprob):
    """A token that came, beside the likeliest ones."""

    top_logprobs: list[TopLogprob]


class AnswerForm(BaseModel):
    """How the text of an answer is to be read: what its model's chat template, and this prompt, make of it."""

    tool_format: str = Field("hermes", description="How calls are written, as `configs.tool_formats` calls it")
    reasoning: str | None = Field(None, description="What begins reasoning; none: there is none")
    begins_in_reasoning: bool = Field(False, description="The prompt ends within reasoning")
    generic_tools: bool = Field(False, description="The template has no place for tools: a generic prompt has them")
    lenient: bool = Field(True, description="An answer that is nothing but JSON may be a call in any format")


class RankedLogprob(TopLogprob):
    """A token that might have stood in the prompt; `rank` 1 is the likeliest."""

    id: int
    rank: int


class PromptToken(BaseModel):
    """A token of the prompt; the first has no log-probability. `offset` counts the characters before it."""

    token: str
    bytes: list[int]
    id: int
    offset: int
    logprob: float | None
    rank: int | None
    top_logprobs: list[RankedLogprob]


class EchoedPrompt(BaseModel):
    """The prompt's text, and its tokens if their log-probabilities were asked for."""

    text: str
    tokens: list[PromptToken]


class EngineGenerateResponse(Usage):
    """A complete answer: `text` is the prompt (where it was text) exactly as sent, followed by `continuation`."""

    text: str
    continuation: str
    form: AnswerForm = Field(default_factory=AnswerForm)
    logprobs: list[TokenLogprob] = Field(
        default_factory=list,
        description="Of each token, if asked for; with `prompt_logprobs` also of the token that ended the answer",
    )
    offsets: list[int] = Field(default_factory=list, description="Characters of the continuation before each of these")
    prompt: EchoedPrompt | None = Field(None, description="With `echo` or `prompt_logprobs`")
    reasoning: str = Field("", description="Of a backend that parts it from the text by itself")
    calls: list[dict[str, Any]] = Field([], description="Likewise: calls, as pieces of OpenAI's `tool_calls`")


class EngineEmbedResponse(BaseModel):
    """The mean of the model's last hidden states over the tokens, not normalised."""

    embedding: list[float]
    prompt_tokens: int


class EngineModel(TypedDict):
    """One base model in the engine: its folder, the bytes it holds, its requests, and its cache in tokens."""

    weights: str
    loaded: bool
    adapters: list[str]
    bytes: int
    running: int
    waiting: int
    cache_tokens_used: int
    cache_tokens: int


class EngineHealth(BaseModel):
    """State of the engine's process: `loading` until its libraries are imported, `failed` if it can't answer requests.

    `error` says why: the libraries can't be imported, a decode thread has died or hangs, the device does not compute.
    """

    status: Literal["loading", "ok", "failed"]
    models: list[EngineModel] = []
    bytes: int = 0
    budget_bytes: int = 0
    running: int = 0
    waiting: int = 0
    generated_tokens: int = 0
    error: str | None = None
