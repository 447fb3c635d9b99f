"""`POST /tokenize` and `POST /detokenize`, as vLLM has them: a model's tokens of a text or a conversation, and back."""

import asyncio
from typing import Annotated, Any, Self

from fastapi import APIRouter, Request, Response
from pydantic import ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from api.engine_server.schemas import EngineTokenizeRequest, EngineTokens
from api.generation.connections import answered
from api.platform import CurrentPlatform, Platform
from api.routes.openai.fine_tuning.checkpoints import answering
from api.routes.openai.schemas import ChatMessage, ModelName, TokenId
from api.routes.openai.tolerant import TolerantRequest
from api.routes.openai.tool_schemas import Tool
from api.schemas import ResponseBody
from configs.chat_format import TemplateArguments

router = APIRouter(tags=["openai"])


ONE_INPUT: JsonDict = {
    "oneOf": [
        {"required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
        {"required": ["messages"], "properties": {"messages": {"type": "array"}}},
    ]
}
"""What `TokenizeRequest._one_input` asks for, for clients that read the schema."""


class TokenizeRequest(TolerantRequest):
    """A text, or a conversation."""

    model_config = ConfigDict(json_schema_extra=ONE_INPUT)

    model: ModelName
    prompt: str | None = None
    messages: Annotated[list[ChatMessage], Field(min_length=1, fail_fast=True)] | None = None
    tools: list[Tool] | None = None
    chat_template_kwargs: TemplateArguments | None = None
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    add_special_tokens: bool = Field(True, description="Of a prompt: with those that the tokenizer adds by itself")
    return_token_strs: bool = False

    @model_validator(mode="after")
    def _one_input(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give exactly one of prompt and messages")
        return self


class TokenizeAnswer(ResponseBody):
    """The tokens, how many there are, and how many the model's context holds."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizeRequest(TolerantRequest):
    """Tokens."""

    model: ModelName
    tokens: Annotated[list[TokenId], Field(fail_fast=True)]


class DetokenizeAnswer(ResponseBody):
    """Their text, with special tokens spelt out."""

    prompt: str


@router.post("/tokenize", response_model=TokenizeAnswer)
async def tokenize(platform: CurrentPlatform, request: Request, body: TokenizeRequest) -> TokenizeAnswer | Response:
    """Get the tokens of a text, or of a conversation as the model reads it."""
    return await answered(request, _tokenize(platform, body))


@router.post("/detokenize", response_model=DetokenizeAnswer)
async def detokenize(
    platform: CurrentPlatform, request: Request, body: DetokenizeRequest
) -> DetokenizeAnswer | Response:
    """Get the text of tokens."""
    return await answered(request, _detokenize(platform, body))


async def _tokenize(platform: Platform, body: TokenizeRequest) -> TokenizeAnswer:
    asked: dict[str, Any] = {"prompt": body.prompt, "add_special_tokens": body.add_special_tokens}
    if body.messages is not None:
        asked = {
            "messages": [message.rendered() for message in body.messages],
            "tools": [tool.rendered() for tool in body.tools or []] or None,
            "chat_template_kwargs": body.chat_template_kwargs,
            "add_generation_prompt": body.add_generation_prompt,
            "continue_final_message": body.continue_final_message,
        }
    found = await tokens(platform, body.model, **asked)
    shown = found.pieces if body.return_token_strs else None
    return TokenizeAnswer(count=len(found.ids), max_model_len=found.context, tokens=found.ids, token_strs=shown)


async def _detokenize(platform: Platform, body: DetokenizeRequest) -> DetokenizeAnswer:
    if not body.tokens:
        return DetokenizeAnswer(prompt="")
    return DetokenizeAnswer(prompt=(await tokens(platform, body.model, prompt_ids=body.tokens)).text)


async def tokens(platform: Platform, model: str, **asked: Any) -> EngineTokens:
    """Return what the engine says of an input (fields of `EngineTokenizeRequest`); raises as `ask`."""

    def prepare() -> EngineTokenizeRequest:
        return EngineTokenizeRequest(**platform.generations.inputs.fields(*answering(platform, model)), **asked)

    return await platform.generations.tokens(await asyncio.to_thread(prepare))
