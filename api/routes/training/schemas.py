"""Shapes of training jobs."""

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, StringConstraints, model_validator
from pydantic.config import JsonDict

from api.schemas import CREATED_BY, NextAfter, ResponseBody, Timestamp
from configs.recipe import ADAPTER_FIELDS, NO_NUL, FinetuneParameters, JobName

Status = Literal["PENDING", "RUNNING", "PAUSED", "COMPLETED", "FAILED", "CANCELLED"]


# The rules that the recipe checks, for clients that read the schema; not in the recipe, of which Prefect makes a form.
_HELD_OUT_LOSSES_TO_GO_BY: JsonDict = {
    "anyOf": [
        {"required": ["eval_every"], "properties": {"eval_every": {"type": "integer"}}},
        {"properties": {"early_stopping_patience": {"type": "null"}, "register_best": {"const": False}}},
    ]
}
_NOTHING_WITHOUT_MEANING: JsonDict = {
    "anyOf": [
        {"properties": {"method": {"not": {"const": "full"}}}},
        {"properties": dict.fromkeys(ADAPTER_FIELDS, False)},
    ]
}


# No quote or backslash: a key is part of a path into the stored JSON when jobs are searched by it.
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r'^[^\x00"\\]+$')]
MetadataValue = Annotated[str, StringConstraints(max_length=512, pattern=NO_NUL)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]


class TrainingCreate(FinetuneParameters):
    """A training job to create: the model, a name, and any hyperparameter."""

    model_config = ConfigDict(json_schema_extra={"allOf": [_HELD_OUT_LOSSES_TO_GO_BY, _NOTHING_WITHOUT_MEANING]})

    job_name: JobName = Field(description="Name of the job")
    metadata: Metadata | None = Field(None, description="Labels of the client's, shown with the job")

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        self.refuse_without_meaning(self.model_fields_set)
        return self


class TrainingCreated(ResponseBody):
    """Answer to a created training job."""

    id: int
    job_name: str
    model_id: int
    status: Status
    message: str


class TrainingSummary(ResponseBody):
    """A training job as the list shows it."""

    id: int
    model_id: int
    job_name: str
    status: Status
    progress: float = Field(description="Steps done over steps to do, in percent")
    epochs: int
    current_epoch: int
    learning_rate: float
    batch_size: int
    created_at: Timestamp
    created_by: str | None = Field(description=CREATED_BY)
    started_at: Timestamp | None
    completed_at: Timestamp | None


class Attempt(ResponseBody):
    """The process that works, or last worked, on a job."""

    number: int
    host: str
    pid: int
    started_at: Timestamp
    ended_at: Timestamp | None


class PastAttempt(Attempt):
    """A process that works or worked on a job, and how that ended."""

    outcome: Literal["completed", "paused", "failed", "stopped", "died"] | None


class MemoryPlan(ResponseBody):
    """How a job's optimizer steps are cut to fit in memory."""

    micro_batch: int = Field(description="Rows in memory at once")
    gradient_accumulation: int = Field(description="Micro-batches per optimizer step")
    recompute: bool = Field(description="Whether activations are computed again in the backward pass")
    sharded: bool = Field(False, description="Whether the devices divide the weights among them")
    background_saves: bool = Field(False, description="Whether checkpoints are written beside the steps, from a copy")
    estimated_gb: float | None = Field(description="Most memory that the job takes at once; none: not known")
    available_gb: float = Field(description="What there was before the model was loaded")
    reason: str | None = Field(description="What made a smaller plan than the one before it necessary")


class TrainingDetail(TrainingSummary):
    """A training job with its settings, its progress and its log."""

    lora_r: int | None = Field(description="null, as the next two, where every weight is trained")
    lora_alpha: int | None
    lora_dropout: float | None
    current_loss: float | None
    logs: str
    pausing: bool = Field(description="A pause was asked for and the trainer has not left the device yet")
    cancelling: bool = Field(description="A cancellation was asked for and the trainer has not left the device yet")
    error: str | None
    stopped_early: bool = Field(description="Completed before `total_steps`, as the held-out loss stopped falling")
    step: int
    total_steps: int | None
    eval_loss: float | None
    tokens_per_second: float | None
    recipe: dict[str, Any] = Field(description="Every hyperparameter")
    trained_tokens: int | None = Field(description="Tokens read so far, padding not counted")
    metadata: dict[str, str] | None
    attempt: Attempt | None
    attempts: list[PastAttempt]
    memory_plan: MemoryPlan | None = Field(description="The newest plan; none until the trainer has made one")
    queue_position: int | None = Field(description="Place among the jobs that wait for the device, from 1")
    eta_seconds: float | None = Field(description="Training time that is left at the present pace")
    output_model_id: int | None = Field(description="The model that the completed job made")
    output_evaluation_id: int | None = Field(description="Evaluation of that model, asked for by the job itself")
    base_evaluation_id: int | None = Field(
        description="Evaluation of the model trained from, on the same held-out rows: compare the two"
    )
    flow_run_id: str | None
    mlflow_run_id: str | None


class TrainingList(ResponseBody):
    """Training jobs, in id order."""

    training_jobs: list[TrainingSummary]
    next_after: NextAfter


class TrainingTransition(ResponseBody):
    """Answer to a pause, resume, cancel or restart."""

    id: int
    status: Status
    message: str
    pausing: bool = False


class TrainingEvent(ResponseBody):
    """Something that happened to a job."""

    id: int
    kind: Literal["log", "state", "attempt", "memory", "step", "evaluation", "checkpoint"]
    data: dict[str, Any]
    created_at: Timestamp


class TrainingEvents(ResponseBody):
    """A page of a job's events, oldest first; ask again with `after` set to the last id for more."""

    events: list[TrainingEvent]
