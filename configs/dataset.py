"""How an uploaded data set is read, checked and split: what the upload accepts beside the file."""

from typing import Annotated

from pydantic import Field, StringConstraints

from configs.chat_format import ChatFormat
from configs.recipe import NO_NUL, CutRows, JobName, RecordId, TrainingRecipe

BUILT_IN_DATASET_ID = 1
STDLIB_DOCSTRINGS, UPLOAD = "stdlib-docstrings", "upload"
"""Sources of a data set's rows that are neither a local file's name nor a hub id."""
ColumnName = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_NUL)]


class DatasetSettings(ChatFormat):
    """Settings of a data set; everything has a default."""

    name: JobName | None = Field(None, description="Name of the data set; none: the file's name")
    columns: dict[ColumnName, ColumnName] | None = Field(
        None,
        max_length=50,
        description='Which of the file\'s columns is which field, such as {"question": "Frage", "answer": "Antwort"}',
    )
    model_id: RecordId | None = Field(
        None, description="Model whose tokenizer and chat template the rows are checked with; none: the first available"
    )
    max_seq_length: int = Field(
        TrainingRecipe.model_fields["max_seq_length"].default,
        ge=8,
        le=1_048_576,
        description="Length at which the report counts rows as cut",
    )
    cut_rows: CutRows = Field(
        TrainingRecipe.model_fields["cut_rows"].default,
        description="What the report makes of conversations longer than that: counted as cut (`truncate`), errors of "
        "their rows (`error`), or counted as the windows that they are split into (`split`)",
    )
    held_out_fraction: float = Field(0.1, gt=0, lt=1, description="Share of the rows kept from training, by their hash")
    held_out_dataset_id: RecordId | None = Field(
        None, description="Data set to evaluate on; none: a share of this one's rows is held out"
    )
    allow_errors: bool = Field(
        False, description="Leave rows in error out, and count them, instead of refusing the data set"
    )
