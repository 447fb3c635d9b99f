"""Shapes of fine-tuning jobs, their events and checkpoints."""

from typing import Annotated, Any, Literal, Self

from fastapi.exceptions import RequestValidationError
from pydantic import BeforeValidator, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic.config import JsonDict

from api.routes.openai.pages import Listed
from api.routes.openai.schemas import ModelName
from api.routes.training.schemas import Metadata, TrainingCreate
from api.schemas import ResponseBody
from configs import recipe
from configs.recipe import NAME, FinetuneParameters, TrainingRecipe
from configs.strict import StrictModel

DEFAULT_NAME: str = FinetuneParameters.model_fields["job_name"].default
DEFAULT_METHOD: recipe.Method = TrainingRecipe.model_fields["method"].default
DEFAULT_RATE: float = TrainingRecipe.model_fields["learning_rate"].default
FileId = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Suffix = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=NAME)]
SAID_OTHERWISE = {
    "model_id": "model",
    "job_name": "suffix",
    "dataset_id": "training_file",
    "held_out_dataset_id": "validation_file",
    "epochs": "n_epochs",
    "batch_size": "hyperparameters.batch_size",
    "learning_rate": "learning_rate_multiplier",
    "method": "training_method",
}
"""Fields of the documented API that OpenAI's API has other names for: only those are accepted here."""


def _none_if_auto(value: Any) -> Any:
    return None if value == "auto" else value


Epochs = Annotated[int, Field(ge=1, le=10_000)]
BatchSize = Annotated[int, Field(ge=1, le=4096)]
Multiplier = Annotated[float, Field(ge=1e-6, le=1 / DEFAULT_RATE)]
Auto = Literal["auto"]


class Hyperparameters(StrictModel):
    """What OpenAI lets a client set; `auto` is the documented API's default."""

    n_epochs: Annotated[Epochs | None, BeforeValidator(_none_if_auto, json_schema_input_type=Epochs | Auto | None)] = (
        None
    )
    batch_size: Annotated[
        BatchSize | None, BeforeValidator(_none_if_auto, json_schema_input_type=BatchSize | Auto | None)
    ] = None
    learning_rate_multiplier: Annotated[
        Multiplier | None, BeforeValidator(_none_if_auto, json_schema_input_type=Multiplier | Auto | None)
    ] = Field(None, description=f"Times the default learning rate, {DEFAULT_RATE:g}")

    def recipe(self) -> dict[str, Any]:
        """Return the settings that are not `auto`, as the documented API names them."""
        chosen: dict[str, Any] = {"epochs": self.n_epochs, "batch_size": self.batch_size}
        if self.learning_rate_multiplier is not None:
            chosen["learning_rate"] = self.learning_rate_multiplier * DEFAULT_RATE
        return {name: value for name, value in chosen.items() if value is not None}


class Supervised(StrictModel):
    """Settings of supervised fine-tuning."""

    hyperparameters: Hyperparameters | None = None


class Method(StrictModel):
    """How to fine-tune: supervised only."""

    type: Literal["supervised"]
    supervised: Supervised | None = None


def _with_own_settings(schema: JsonDict) -> None:
    """Show the documented API's own settings among the fields, for clients that read the schema."""
    own = TrainingCreate.model_json_schema()
    properties = schema["properties"]
    assert isinstance(properties, dict)
    schema["properties"] = properties | {
        name: field for name, field in own["properties"].items() if name not in {*properties, *SAID_OTHERWISE}
    }
    schema["additionalProperties"] = False
    schema["allOf"] = own["allOf"]
    schema["not"] = {
        "required": ["hyperparameters", "method"],
        "properties": {"hyperparameters": {"type": "object"}, "method": {"type": "object"}},
    }


class JobCreate(StrictModel):
    """A fine-tuning job to create; any setting of the documented API that has no name here may come along."""

    model_config = ConfigDict(extra="allow", json_schema_extra=_with_own_settings)

    model: ModelName = Field(description="Model to start from, as `GET /v1/models` lists it")
    training_file: FileId
    validation_file: FileId | None = Field(None, description="File whose rows, all of them, are held out")
    suffix: Suffix | None = Field(None, description="Name of the job, and part of the new model's name")
    seed: int | None = Field(None, ge=0, lt=2**32)
    metadata: Metadata | None = None
    method: Method | None = None
    training_method: recipe.Method = Field(
        DEFAULT_METHOD, description="The documented API's `method`; OpenAI's own field of that name says `supervised`"
    )
    hyperparameters: Hyperparameters | None = Field(None, description="Older than `method`, which excludes it")
    integrations: Annotated[list[Any], Field(max_length=0)] | None = Field(None, description="Not supported")

    @model_validator(mode="after")
    def _one_place_for_hyperparameters(self) -> Self:
        if self.method is not None and self.hyperparameters is not None:
            raise ValueError("method and hyperparameters exclude each other; give the hyperparameters in method")
        return self

    def as_training(self, model_id: int, dataset_id: int, held_out_dataset_id: int | None) -> TrainingCreate:
        """Return the same job as the documented API takes it; raises `RequestValidationError` naming wrong fields."""
        own = self.model_extra or {}
        chosen = self.hyperparameters
        if self.method is not None and self.method.supervised is not None:
            chosen = self.method.supervised.hyperparameters
        problems = [
            {"type": "value_error", "loc": ("body", name), "input": value, "msg": f"it is {SAID_OTHERWISE[name]} here"}
            for name, value in own.items()
            if name in SAID_OTHERWISE
        ]
        if problems:
            raise RequestValidationError(problems)
        named = {"job_name": self.suffix, "seed": self.seed, "metadata": self.metadata}
        settings = own | {name: value for name, value in named.items() if value is not None}
        settings |= chosen.recipe() if chosen is not None else {}
        settings.setdefault("job_name", DEFAULT_NAME)
        settings["method"] = self.training_method
        settings |= {"model_id": model_id, "dataset_id": dataset_id, "held_out_dataset_id": held_out_dataset_id}
        try:
            return TrainingCreate.model_validate(settings)
        except ValidationError as error:
            wrong = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_url=False)]
            raise RequestValidationError(wrong) from error


class UsedHyperparameters(ResponseBody):
    """What a job trains with."""

    n_epochs: int
    batch_size: int
    learning_rate_multiplier: float


class UsedSupervised(ResponseBody):
    """Settings of supervised fine-tuning."""

    hyperparameters: UsedHyperparameters


class UsedMethod(ResponseBody):
    """How a job fine-tunes."""

    type: Literal["supervised"] = "supervised"
    supervised: UsedSupervised


class JobError(ResponseBody):
    """Why a job has failed."""

    code: str
    message: str
    param: str | None = None


class FineTuningJob(Listed):
    """A fine-tuning job."""

    object: Literal["fine_tuning.job"] = "fine_tuning.job"
    created_at: int
    finished_at: int | None
    estimated_finish: int | None
    status: Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
    model: str
    fine_tuned_model: str | None
    training_file: str
    validation_file: str | None
    result_files: list[str]
    trained_tokens: int | None
    hyperparameters: UsedHyperparameters
    method: UsedMethod
    seed: int
    metadata: dict[str, str] | None
    error: JobError | None
    organization_id: str = "llm-platform"
    integrations: list[Any] = Field(default_factory=list)


class JobEvent(Listed):
    """Something that happened to a job."""

    object: Literal["fine_tuning.job.event"] = "fine_tuning.job.event"
    created_at: int
    level: Literal["info", "warn", "error"]
    type: Literal["message", "metrics"]
    message: str
    data: dict[str, Any]


class CheckpointMetrics(ResponseBody):
    """What was measured at a checkpoint's step; null where nothing was."""

    step: int
    train_loss: float | None
    valid_loss: float | None = Field(description="Held-out loss of the checkpoint's own weights")


class Checkpoint(Listed):
    """A checkpoint that can be named as a model."""

    object: Literal["fine_tuning.job.checkpoint"] = "fine_tuning.job.checkpoint"
    created_at: int
    fine_tuning_job_id: str
    fine_tuned_model_checkpoint: str
    step_number: int
    metrics: CheckpointMetrics
