"""A small training job on a tiny real model, run to its end, to a pause or to a crash, with all it reported."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from configs.recipe import Method, TrainingRecipe
from tasks.training.adapter import attach_lora, save_adapter
from tasks.training.batch import TokenRow
from tasks.training.loop import train
from tasks.training.methods import METHODS
from tasks.training.observer import StepRecord, TrainOutcome
from tasks.training.planning import StepPlan
from tasks.training.saved_run import SavedRun


@dataclass(frozen=True)
class Start:
    """A model to train from, as the methods know it."""

    base_folder: Path
    adapter_folder: Path | None = None
    dtype: torch.dtype = torch.float32
    base_reference: str = "base"

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    def after(self, method: Method, kept: Path) -> "Start":
        """The model that a job from here has made, if `kept` is what it left."""
        if METHODS[method].full:
            return replace(self, base_folder=kept, adapter_folder=None)
        return replace(self, adapter_folder=kept)


@dataclass(frozen=True)
class Row:
    """A row as the loop reads it."""

    input_ids: list[int]
    labels: list[int]
    weights: list[float] | None = None


class Killed(Exception):
    """The crash of the test's own making."""


@dataclass
class Recorder:
    """Keeps what the loop reports, in order; asks for a pause or crashes after a given step."""

    pause_after: int | None = None
    kill_after: int | None = None
    started_at: list[int] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    events: list[tuple[str, int, float]] = field(default_factory=list)
    saved: list[Path] = field(default_factory=list)

    def on_start(self, step: int, total_steps: int, total_epochs: int) -> None:
        self.started_at += [step, total_steps, total_epochs]

    def on_step(self, record: StepRecord) -> None:
        self.records.append(record)
        self.events.append(("step", record.step, record.loss))
        if record.step == self.kill_after:
            raise Killed

    def on_evaluation(self, step: int, eval_loss: float) -> None:
        self.events.append(("evaluation", step, eval_loss))

    def before_checkpoint(self, step: int) -> None:
        pass

    def on_checkpoint(self, step: int, path: Path) -> None:
        assert path.name == f"step-{step:08d}"
        self.saved.append(path)

    def should_pause(self) -> bool:
        return bool(self.records) and self.records[-1].step == self.pause_after

    def trace(self) -> list[tuple]:
        """What must be equal in any two runs of the same job: all but the clock."""
        return [(r.step, r.epoch, r.loss, r.learning_rate, r.grad_norm, r.tokens, r.sample_ids) for r in self.records]


def make_rows(count: int, seed: int = 7) -> list[Row]:
    """Rows of 6 to 24 random tokens, the first third a prompt without labels."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(count):
        length = int(torch.randint(6, 25, (1,), generator=generator))
        ids = torch.randint(3, 300, (length,), generator=generator).tolist()
        rows.append(Row(ids, [-100] * (length // 3) + ids[length // 3 :]))
    return rows


def load_adapted(folder: Path, recipe: TrainingRecipe, dtype: torch.dtype = torch.float32) -> PeftModel:
    """A fresh model object with a fresh adapter."""
    return attach_lora(AutoModelForCausalLM.from_pretrained(folder, dtype=dtype), recipe)


def run(
    model: PeftModel,
    recipe: TrainingRecipe,
    checkpoints: Path,
    recorder: Recorder,
    *,
    rows: Sequence[TokenRow] | None = None,
    held_out: Sequence[TokenRow] | None = None,
    fingerprint: str = "rows-v1",
    interval: float = 3600.0,
    compute_dtype: torch.dtype | None = None,
    plan: StepPlan | None = None,
    background: bool = False,
) -> TrainOutcome:
    """Train with the test's rows."""
    return train(
        model,
        make_rows(14) if rows is None else rows,
        make_rows(5, seed=8) if held_out is None else held_out,
        recipe,
        pad_token_id=0,
        saved_run=SavedRun(checkpoints),
        data_fingerprint=fingerprint,
        observer=recorder,
        should_pause=recorder.should_pause,
        checkpoint_interval=interval,
        compute_dtype=compute_dtype,
        plan=plan,
        background_saves=background,
    )


def adapter_bytes(model: PeftModel, folder: Path) -> bytes:
    """The adapter file that this model would be registered with."""
    return (save_adapter(model, folder, "base") / "adapter_model.safetensors").read_bytes()


def unsay(checkpoint: Path, *names: str) -> None:
    """Make a checkpoint one of the first format, by a version that did not yet say these things of its run."""
    state = json.loads((checkpoint / "state.json").read_text())
    for name, former in (("compute_dtype", "base_dtype"), ("backend", "path")):
        state["identity"][former] = state["identity"].pop(name)
    for name in names:
        part = "identity" if name in state["identity"] else "progress"
        del state[part][name]
    (checkpoint / "state.json").write_text(json.dumps(state))
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["format"] = 1
    manifest["sha256"]["adapter.safetensors"] = manifest["sha256"].pop("weights.safetensors")
    (checkpoint / "weights.safetensors").rename(checkpoint / "adapter.safetensors")
    manifest["sha256"]["state.json"] = hashlib.sha256((checkpoint / "state.json").read_bytes()).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
