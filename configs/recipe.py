"""The typed hyperparameters of a fine-tuning job: what the API accepts, the Prefect form shows and MLflow logs."""

from collections.abc import Set
from math import sqrt
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, Field, StringConstraints, model_validator

from configs.chat_format import ChatFormat
from configs.strict import StrictModel

TargetModule = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_.]*$", max_length=200)]
# The largest id a database column holds; a longer number can't name anything.
LARGEST_ID = 2**31 - 1
RecordId = Annotated[int, Field(ge=1, le=LARGEST_ID)]
DatasetId = Annotated[int | None, Field(ge=1, le=LARGEST_ID)]
# PostgreSQL stores no NUL characters.
NO_NUL = r"^[^\x00]*$"
# And a name of spaces names nothing. Spelt out, as `\s` means other characters to clients than it does here.
SPACES = r"\x00-\x20\x7f-\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
NAME = rf"^[^\x00]*[^{SPACES}][^\x00]*$"
LONGEST_NAME = 200
JobName = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=LONGEST_NAME, pattern=NAME)]
TaskName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NAME)]


CutRows = Literal["truncate", "error", "split"]
"""What becomes of a conversation that is longer than `max_seq_length`."""
Method = Literal["lora", "rslora", "dora", "full", "qlora"]
SHARDED_METHODS: tuple[Method, ...] = ("lora", "rslora", "full")
"""Methods whose weights can be divided among devices."""
ADAPTER_FIELDS = ("lora_r", "lora_alpha", "lora_dropout", "target_modules")
"""Fields that shape an adapter: they mean nothing where every weight is trained."""


class TrainingRecipe(ChatFormat):
    """Hyperparameters of one fine-tuning run. Unknown fields are refused: a misspelled one must not be ignored."""

    method: Method = Field(
        "lora",
        description="What is trained: a low-rank adapter (`lora`; `rslora` with the scale lora_alpha / √lora_r; "
        "`qlora` over a base in four bits, on a GPU), directions and sizes of the weights apart (`dora`), or "
        "every weight (`full`)",
    )
    epochs: int = Field(3, ge=1, le=10_000, description="Passes over the training rows")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate of AdamW")
    batch_size: int = Field(8, ge=1, le=4096, description="Rows per micro-batch")
    gradient_accumulation: int = Field(1, ge=1, le=4096, description="Micro-batches per optimizer step")
    micro_batch: Literal["as_given", "auto"] = Field(
        "as_given",
        description="`auto`: where memory asks for it, fewer rows at once than `batch_size` and more accumulation; the "
        "rows of an optimizer step stay the same",
    )
    devices: int = Field(
        1,
        ge=1,
        le=64,
        description="GPUs that share the rows of each step, or processes on a CPU; the steps are those of one device",
    )
    sharding: Literal["auto", "none", "full"] = Field(
        "auto",
        description="Whether several devices divide the weights among them (`full`) or each has a copy "
        "(`none`); `auto`: divided where a copy does not fit",
    )
    max_steps: int | None = Field(
        None, ge=1, description="Stop after this many optimizer steps, whatever `epochs` says"
    )
    add_eos: bool | None = Field(
        None,
        description="Whether the end-of-sequence token is learned after a text, and after an answer that nothing else "
        "ends; none: as in the model's own training, true for a base model",
    )
    max_seq_length: int = Field(
        512,
        ge=8,
        le=1_048_576,
        description="Tokens per row; a longer text is read as several, a longer chat as `cut_rows` says",
    )
    cut_rows: CutRows = Field(
        "truncate",
        description="What becomes of a conversation longer than `max_seq_length`: it loses its end and is counted "
        "(`truncate`), ends the job before anything is trained (`error`), or is split between its turns, each "
        "assistant turn learned once (`split`)",
    )
    lora_r: int = Field(8, ge=1, le=1024, description="Rank of the LoRA update")
    lora_alpha: int = Field(
        32, ge=1, le=65_536, description="LoRA scale is lora_alpha / lora_r (with `rslora` / √lora_r)"
    )
    lora_dropout: float = Field(0.05, ge=0, lt=1, description="Dropout on the LoRA branch's input")
    target_modules: list[TargetModule] | None = Field(
        None,
        min_length=1,
        max_length=100,
        description="Layers that get an adapter; none: every linear layer but the head",
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="Share of the steps over which the rate rises from zero")
    lr_scheduler: Literal["linear", "cosine", "constant"] = Field(
        "linear", description="Shape of the rate after warm-up"
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seeds adapter initialisation, data order and dropout")
    dataset_id: DatasetId = Field(None, description="Data set to train on; none: the built-in one")
    held_out_dataset_id: DatasetId = Field(
        None,
        description="Data set whose rows, all of them, are held out; none: those that the data set itself holds out",
    )
    eval_every: int | None = Field(None, ge=1, description="Steps between held-out losses; none: once, at the end")
    eval_rows: int = Field(
        128, ge=1, description="Held-out rows that the loss during training is measured on, the first in hash order"
    )
    early_stopping_patience: int | None = Field(
        None,
        ge=1,
        description="Held-out losses in a row without a new lowest, after which training stops; needs `eval_every`",
    )
    register_best: bool = Field(
        False,
        description="Register the weights with the lowest held-out loss instead of the last ones; needs `eval_every`",
    )
    auto_evaluate: bool = Field(
        True,
        description="When the job is done, evaluate the new model and the one trained from on the same held-out rows",
    )

    @model_validator(mode="after")
    def _held_out_losses_to_go_by(self) -> Self:
        for name in ("early_stopping_patience", "register_best"):
            if getattr(self, name) and self.eval_every is None:
                raise ValueError(f"{name} needs eval_every: without it the held-out loss is measured once, at the end")
        return self

    @model_validator(mode="after")
    def _rows_for_every_device(self) -> Self:
        if self.devices > self.batch_size:
            raise ValueError(
                f"devices is {self.devices}, but a batch_size of {self.batch_size} has no row for each of them: "
                "raise batch_size or lower devices"
            )
        return self

    @model_validator(mode="after")
    def _weights_to_shard(self) -> Self:
        if self.sharding == "full" and self.devices == 1:
            raise ValueError(
                "sharding is 'full', but devices is 1: there is nobody to share the weights with; raise devices or "
                "leave out sharding"
            )
        if self.sharding == "full" and self.method not in SHARDED_METHODS:
            raise ValueError(
                f"sharding is 'full', but method is '{self.method}', whose weights can't be divided: sharding takes "
                f"the methods {', '.join(SHARDED_METHODS)}"
            )
        return self

    @model_validator(mode="after")
    def _nothing_without_meaning(self) -> Self:
        # By value: Prefect's form sends the default of every field that was left as it was.
        fields = TrainingRecipe.model_fields
        self.refuse_without_meaning({name for name in ADAPTER_FIELDS if getattr(self, name) != fields[name].default})
        return self

    def refuse_without_meaning(self, given: Set[str]) -> None:
        """Raise ValueError, naming them, if any of the fields that were `given` means nothing to the method."""
        idle = [name for name in ADAPTER_FIELDS if name in given and not self._means(name)]
        if idle:
            values = ", ".join(f"{name} ({getattr(self, name)!r})" for name in idle)
            raise ValueError(f"method 'full' trains every weight and has no adapter: leave out {values}")

    def hyperparameters(self) -> dict[str, Any]:
        """Return the fields that mean something to the method, by name: what is stored, logged and shown."""
        return self.model_dump(include={name for name in TrainingRecipe.model_fields if self._means(name)})

    @property
    def rows_per_device(self) -> int:
        """Rows of a micro-batch that one device takes at most."""
        return -(-self.batch_size // self.devices)

    @property
    def shardings(self) -> tuple[bool, ...]:
        """Whether weights may be divided among the devices, the faster first: what a plan may choose from."""
        if self.sharding == "none" or self.devices == 1 or self.method not in SHARDED_METHODS:
            return (False,)
        return (True,) if self.sharding == "full" else (False, True)

    @property
    def lora_scale(self) -> float:
        """What the adapter's product is multiplied with."""
        return self.lora_alpha / (sqrt(self.lora_r) if self.method == "rslora" else self.lora_r)

    def _means(self, name: str) -> bool:
        return self.method != "full" or name not in ADAPTER_FIELDS


class FinetuneParameters(TrainingRecipe):
    """Parameters of the `finetune` flow: which model to train, under which name, and how."""

    model_id: RecordId = Field(description="Model to start from (`GET /api/models`); it stays as it is")
    job_name: JobName = Field("Training job", description="Name of the job")


MetricName = Literal["perplexity", "bleu_score", "rouge_score", "response_diversity", "avg_response_length"]
METRICS: tuple[MetricName, ...] = get_args(MetricName)


def _without_repeats(names: list[MetricName]) -> list[MetricName]:
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated is not None:
        raise ValueError(f"{repeated} is named {names.count(repeated)} times; name each metric once")
    return names


MetricNames = Annotated[
    list[MetricName], Field(min_length=1, json_schema_extra={"uniqueItems": True}), AfterValidator(_without_repeats)
]


class EvaluationSettings(ChatFormat):
    """What an evaluation computes; everything has a default."""

    eval_name: JobName = Field("Standard Evaluation", description="Name of the evaluation")
    dataset_id: DatasetId = Field(None, description="Data set whose held-out rows are used; none: the model's own")
    held_out_dataset_id: DatasetId = Field(
        None, description="Data set whose rows, all of them, are used instead of those held out of `dataset_id`"
    )
    max_samples: int = Field(32, ge=1, le=100_000, description="Held-out rows, the first in hash order")
    max_seq_length: int | None = Field(
        None,
        ge=8,
        le=1_048_576,
        description="Tokens per row; none: as in the model's training, 512 for a base model. Longer answers are cut, "
        "rows whose prompt does not fit are left out and counted",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Longest generated response, in tokens; none: the 95th percentile of the reference answers', at "
        "least 16 and at most 1024, `max_seq_length` and half of the model's context",
    )
    seed: int = Field(42, ge=0, lt=2**32, description="Seeds the confidence intervals; the responses are greedy")
    metrics: MetricNames | None = Field(
        None, description="What to compute; none: all five. with `perplexity` alone nothing is generated"
    )


class EvaluationParameters(EvaluationSettings):
    """Parameters of the `evaluate` flow."""

    model_id: RecordId = Field(description="Model to evaluate (`GET /api/models`)")


class PromotionSettings(StrictModel):
    """By what a model has to be better than the present champion, or than its base; everything has a default."""

    metric: Literal["perplexity", "bleu_score", "rouge_score"] = Field(
        "perplexity", description="Metric in which the model must be better, beyond noise"
    )
    dataset_id: DatasetId = Field(
        None, description="Data set on whose held-out rows both were evaluated; none: the newest that both were"
    )
    force: bool = Field(False, description="Promote even if the model is not better; who was overruled is recorded")
    reason: Annotated[str, StringConstraints(max_length=1000, pattern=NO_NUL)] = Field(
        "", description="Why; kept with the model version"
    )


class PromotionParameters(PromotionSettings):
    """Parameters of the `promote` flow, which makes the evaluations that are missing first."""

    model_id: RecordId | None = Field(
        None, description="Model to promote; none: the newest that was trained on the base model"
    )
    base_model: Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)] | None = Field(
        None, description="Base model (`GET /api/models`) whose newest fine-tune is meant, where `model_id` is none"
    )
    max_samples: int = Field(32, ge=1, le=100_000, description="Held-out rows of an evaluation that has to be made")

    @model_validator(mode="after")
    def _one_candidate(self) -> Self:
        if (self.model_id is None) == (self.base_model is None):
            raise ValueError(
                "give either model_id or base_model: the one names a model, the other its newest fine-tune"
            )
        return self


class BenchmarkParameters(StrictModel):
    """Parameters of the `benchmark` flow."""

    model_id: RecordId = Field(description="Model to measure (`GET /api/models`)")
    benchmark_name: JobName = Field("Benchmark", description="Name of the MLflow run")
    tasks: list[TaskName] = Field(
        min_length=1, max_length=1000, description="lm-eval tasks, groups or tags that files in data/benchmarks define"
    )
    limit: int | None = Field(None, ge=1, description="Rows per task, the first of its split; none: every row")
    num_fewshot: int | None = Field(
        None, ge=0, le=1000, description="Solved examples before each row; none: as many as the task says"
    )
    apply_chat_template: bool | None = Field(
        None,
        description="Whether prompts are turns in the model's chat template; none: they are if its tokenizer has one",
    )
    batch_size: int = Field(8, ge=1, le=4096, description="Rows at once on the device")
    seed: int = Field(42, ge=0, lt=2**32, description="Seeds the choice of solved examples, and sampling tasks")
