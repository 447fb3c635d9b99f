"""Shapes of models and of generated text."""

import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, StringConstraints, model_validator

from api.schemas import CREATED_BY, Deleted, NextAfter, ResponseBody, Timestamp
from configs.chat_format import ChatFormat
from configs.recipe import NO_NUL, JobName, PromotionSettings
from configs.strict import StrictModel

# No path, no `..`, no URL, no pickle: what clients can check before they ask is in the OpenAPI document too.
BASE_MODEL = (
    r"^(?!.*\.\.)(?!.*\.(bin|ckpt|pickle|pkl|pt|pth)$)[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$"
)


def _base_model(name: str) -> str:
    if not re.fullmatch(BASE_MODEL, name) or "\n" in name:
        raise ValueError(
            "it must be a hub id (`org/name`) or a name in the local models folder: no path, URL or pickle file"
        )
    return name


Text = Annotated[str, StringConstraints(max_length=10_000, pattern=NO_NUL)]
BaseModelName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=200),
    AfterValidator(_base_model),
    Field(json_schema_extra={"pattern": BASE_MODEL}),
]
ModelSize = Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}(\.[0-9]{1,3})?[KMBT]$")]
Status = Literal["AVAILABLE", "UNAVAILABLE", "LOADING"]


class ModelSummary(ResponseBody):
    """A model as the list shows it."""

    id: int
    name: str
    base_model: str
    status: Status
    status_reason: str | None = Field(description="Why the weights can't be loaded now")
    description: str
    model_size: str | None
    created_at: Timestamp
    updated_at: Timestamp
    created_by: str | None = Field(description=CREATED_BY)


class ModelDetail(ModelSummary):
    """A model with its lineage and settings, which are null for a base model."""

    parameters: dict[str, Any] | None
    loaded: bool | None = Field(
        None, description="Whether it is in the engine's memory, a second ago at most; null while the engine is down"
    )


class ModelList(ResponseBody):
    """Models, in id order."""

    models: list[ModelSummary]
    next_after: NextAfter


class ModelCreate(ChatFormat):
    """A model to add."""

    name: JobName
    base_model: BaseModelName = Field(description="Hub id or a name in the local models folder", examples=["gpt2"])
    description: Text = ""
    model_size: ModelSize | None = Field(None, description="Computed from the weights if left out", examples=["124M"])


class ModelCreated(ResponseBody):
    """Answer to a created model."""

    id: int
    name: str
    base_model: str
    status: Status
    status_reason: str | None = None
    message: str


class ModelDeleted(Deleted):
    """Answer to a model's deletion."""

    note: str | None = Field(None, description="What else changed: whether it was the champion of its base")


StopString = Annotated[str, StringConstraints(min_length=1, max_length=200)]
StopStrings = Annotated[list[StopString], Field(max_length=16)]


# Both limits as numbers at once contradict each other.
TWO_LIMITS: dict[str, Any] = {
    "required": ["max_length", "max_new_tokens"],
    "properties": {"max_length": {"type": "integer"}, "max_new_tokens": {"type": "integer"}},
}


class GenerateRequest(StrictModel):
    """A prompt and how to continue it."""

    model_config = ConfigDict(json_schema_extra={"not": TWO_LIMITS})

    prompt: str = Field(
        min_length=1, description="Text to continue", examples=["The future of artificial intelligence is"]
    )
    temperature: float = Field(0.7, ge=0, le=100, description="0 is greedy")
    max_length: int | None = Field(
        None,
        ge=1,
        le=1_048_576,
        description="Tokens of prompt and continuation together; 100 if neither limit is given",
    )
    max_new_tokens: int | None = Field(None, ge=1, le=1_048_576, description="Tokens of the continuation, instead")
    top_p: float = Field(0.9, gt=0, le=1)
    top_k: int = Field(50, ge=0, le=1_000_000, description="0 is off")
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    seed: int | None = Field(None, ge=0, lt=2**53, description="Same seed, same text")
    stop: StopString | StopStrings = Field(default_factory=list, description="Ends the text before these")
    stream: bool = Field(False, description="Answer with server-sent events")

    @model_validator(mode="after")
    def _one_limit(self) -> "GenerateRequest":
        if self.max_length is not None and self.max_new_tokens is not None:
            raise ValueError("max_length and max_new_tokens exclude each other; give one of them")
        return self


class GenerateResponse(ResponseBody):
    """The prompt followed by its continuation."""

    text: str
    model_id: int
    model_name: str
    generation_time: float = Field(description="Seconds")
    parameters: dict[str, Any] = Field(description="What was used")
    timestamp: Timestamp
    finish_reason: str
    prompt_tokens: int
    generated_tokens: int


class PromoteRequest(PromotionSettings):
    """By what the model has to be better than the present champion; everything has a default."""


class Champion(ResponseBody):
    """A version of a registered model that is or was champion."""

    model_id: int | None = Field(description="null for a version that was not trained here")
    version: str


class PromotionFigures(ResponseBody):
    """How the model did against the champion, or its base without one, over rows that both were evaluated on."""

    metric: str
    evaluations: tuple[int, int] = Field(description="Ids: the champion's (or the base's), the model's")
    rows: int
    values: tuple[float, float] = Field(description="In the order of `evaluations`")
    difference: float = Field(description="The model's value less the champion's")
    ci95: tuple[float, float] | None = Field(description="95% confidence interval of the difference: low, high")
    p_value: float | None = Field(description="Two-sided, by approximate randomization")
    better: bool = Field(description="Whether the model is better, beyond noise: `p_value` is below `alpha`")
    left_out_rows: int = Field(description="Common rows that one of the two, or a model it was made from, trained on")
    test: int = Field(description="Which test of the two on this data set it is; the same evaluations are the same one")
    alpha: float = Field(description="What `p_value` must be below: 0.05 · 6 ÷ (π² · test²)")
    unknown_datasets: tuple[int, ...] = Field(
        description="Data sets that one of the two was trained on and that are gone: their rows may be among `rows`"
    )


class Promoted(ResponseBody):
    """Answer to a promotion."""

    model_id: int
    registered_model: str
    version: str
    alias: str
    champion_before: Champion | None
    figures: PromotionFigures | None = Field(description="null where it was champion already, or nothing to compare")
    forced: bool = Field(description="Whether the champion, or the base, was overruled")
    message: str
