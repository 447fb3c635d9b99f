"""A model as files that other programs read: merged safetensors, a PEFT folder, or a GGUF file."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.atomic_files import StagingFolder, make_readable
from tasks.models.endings import write_end_ids
from tasks.models.gguf import GgufImpossible, largest_difference, write_gguf
from tasks.models.sources import ModelSource
from tasks.training.methods import merged

Form = Literal["merged", "peft", "gguf"]
TOLERANCE = 1e-3
"""Most that a logit of the GGUF file, read back in float32, may differ: the order of float32 sums, and no more."""
GGUF_FILE = "model-f32.gguf"


class ExportImpossible(Exception):
    """The model can't be written in the form that was asked for; the message says why."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written."""

    files: list[str]
    difference: float | None
    """Largest difference of a logit between the file, read back, and the merged model; none: not a GGUF file."""


def export_model(source: ModelSource, form: Form, folder: Path) -> Exported:
    """Write the model into `folder`, which appears atomically.

    Raises `ExportImpossible`, `WeightsError` (tasks.models.errors) for damaged weights, OSError.
    """
    staging = StagingFolder(folder.parent, f".{folder.name}")
    try:
        difference = None
        if form == "peft":
            _copy_adapter(source, staging.path)
            write_end_ids(staging.path, source.known_end_ids)
        elif form == "merged":
            # Merged in float32, and rounded once to the format that the platform computes in.
            merged(source).to(source.dtype).save_pretrained(staging.path)
            source.tokenizer.save_pretrained(staging.path)
            write_end_ids(staging.path, source.known_end_ids)
        else:
            difference = _write_checked_gguf(source, staging.path)
        files = sorted(path.name for path in staging.path.iterdir())
        make_readable(staging.path)
        staging.path.chmod(0o755)
        staging.publish(folder)
    finally:
        staging.close()
    return Exported(files, difference)


def _copy_adapter(source: ModelSource, folder: Path) -> None:
    if source.adapter_folder is None:
        raise ExportImpossible("it has no adapter, as it is a full model; export it as merged or gguf.")
    shutil.copytree(source.adapter_folder, folder, dirs_exist_ok=True)


def _write_checked_gguf(source: ModelSource, folder: Path) -> float:
    """Write the file and return the largest difference of a logit once it is read back."""
    model = merged(source).float().cpu().eval()
    file = folder / GGUF_FILE
    try:
        write_gguf(model, source.tokenizer, source.context_length, file)
        difference = largest_difference(model, source.tokenizer, file)
    except GgufImpossible as error:
        raise ExportImpossible(str(error)) from error
    if not difference <= TOLERANCE:
        raise ExportImpossible(f"the GGUF file's logits differ by {difference:.3g}, more than {TOLERANCE}.")
    return difference
