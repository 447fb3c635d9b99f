"""`POST /v1/embeddings`: the mean of a model's last hidden states over a text's tokens, brought to unit length."""

import asyncio
import math
from base64 import b64encode
from struct import pack, unpack
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import (
    Field,
    StringConstraints,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from api.engine_server.schemas import EngineEmbedRequest, EngineEmbedResponse
from api.errors import Invalid
from api.platform import Platform
from api.routes.openai.fine_tuning.checkpoints import answering
from api.routes.openai.schemas import ModelName, Prompt, TokenIds
from api.routes.openai.tolerant import TolerantRequest
from api.schemas import ResponseBody

MOST_INPUTS = 2048
Text = Annotated[str, StringConstraints(min_length=1)]
Inputs = Annotated[list[Prompt], Field(min_length=1, max_length=MOST_INPUTS, fail_fast=True)]


def _in_one_sentence(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    """Say once what a value should be that is none of the four kinds, instead of once for each."""
    try:
        return handler(value)
    except ValidationError as error:
        several = isinstance(value, list) and not all(isinstance(one, int | float) for one in value)
        if several and len(value) > MOST_INPUTS:
            raise ValueError(f"it holds {len(value)} inputs, and at most {MOST_INPUTS} are accepted") from error
        kinds = f"a text, a list of token ids, or a list of 1 to {MOST_INPUTS} of these"
        raise ValueError(f"it must be {kinds}, none of them empty") from error


class EmbeddingsRequest(TolerantRequest):
    """Texts or token ids to turn into vectors."""

    model: ModelName = Field(description="Name of a model, as `GET /v1/models` lists it")
    input: Annotated[Text | Inputs[Text] | TokenIds | Inputs[TokenIds], WrapValidator(_in_one_sentence)] = Field(
        description="One input or several, as text or ids"
    )
    encoding_format: Literal["float", "base64"] = Field("float", description="base64: little-endian float32")
    dimensions: int | None = Field(
        None, ge=1, le=1_048_576, description="Only the first ones, brought to unit length again"
    )

    def inputs(self) -> list[dict[str, Any]]:
        """Return the inputs, as fields of the engine's request."""
        if isinstance(self.input, str):
            return [{"prompt": self.input}]
        if isinstance(self.input[0], int):
            return [{"prompt_ids": self.input}]
        return [{"prompt": one} if isinstance(one, str) else {"prompt_ids": one} for one in self.input]


class EmbeddingObject(ResponseBody):
    """The vector of one input."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers, or base64 where that was asked for")


class EmbeddingsUsage(ResponseBody):
    """Token counts of all inputs."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(ResponseBody):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[EmbeddingObject]
    model: str
    usage: EmbeddingsUsage


async def embed(platform: Platform, body: EmbeddingsRequest) -> Response:
    """Return the vectors of all inputs; raises `NotFound`, `Conflict`, `ServiceDown`, `Invalid`, engine errors."""

    def unit(answer: EngineEmbedResponse) -> tuple[bytes, int]:
        return _unit(answer.embedding, body.dimensions), answer.prompt_tokens

    found = await platform.generations.embeddings(await asyncio.to_thread(_requests, platform, body), unit)
    content = await asyncio.to_thread(_content, body, found)
    return Response(content, media_type="application/json")


def _requests(platform: Platform, body: EmbeddingsRequest) -> list[EngineEmbedRequest]:
    fields = platform.generations.inputs.fields(*answering(platform, body.model))
    return [EngineEmbedRequest(**fields, **one) for one in body.inputs()]


def _unit(vector: list[float], dimensions: int | None) -> bytes:
    """Return the first `dimensions` numbers (all: None) at unit length, as little-endian float32."""
    if dimensions is not None and dimensions > len(vector):
        raise Invalid(f"dimensions is {dimensions}, but the embeddings of this model have {len(vector)}.")
    kept = vector[:dimensions]
    length = math.hypot(*kept) or 1.0
    return pack(f"<{len(kept)}f", *(number / length for number in kept))


def _content(body: EmbeddingsRequest, found: list[tuple[bytes, int]]) -> str:
    tokens = sum(count for _, count in found)
    return EmbeddingsResponse(
        data=[
            EmbeddingObject(index=index, embedding=_encoded(vector, body.encoding_format))
            for index, (vector, _) in enumerate(found)
        ],
        model=body.model,
        usage=EmbeddingsUsage(prompt_tokens=tokens, total_tokens=tokens),
    ).model_dump_json()


def _encoded(vector: bytes, encoding_format: Literal["float", "base64"]) -> list[float] | str:
    return b64encode(vector).decode() if encoding_format == "base64" else list(unpack(f"<{len(vector) // 4}f", vector))
