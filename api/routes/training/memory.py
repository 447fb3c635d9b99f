"""Refuses a training job that can't fit in memory before it is accepted, as far as that can be known without torch."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from safetensors import SafetensorError
from sqlalchemy.orm import Session

from api.errors import TooLittleMemory
from api.platform import Platform
from configs.recipe import FinetuneParameters
from configs.settings import Settings
from registry.attempts import attempt_memory
from registry.model_folder import count_parameters
from registry.repositories.datasets import DatasetRepository
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Model
from registry.weights import linear_layers, names_layer, weights_on_disk
from tasks.training.errors import DoesNotFit
from tasks.training.estimate import ModelSizes, StepShape, likely_backend, sizes_of
from tasks.training.machine import free_memory, gpus
from tasks.training.planning import GB, Workload, plan_step


def lack_of_memory(platform: Platform, job: FinetuneParameters) -> TooLittleMemory | None:
    """Return why the job can't fit, with what would; None if it may.

    Where something is not known here, the cheaper case is assumed: the trainer, which sees device, weights and rows,
    plans again before its first step.
    """
    with platform.database.reading() as session:
        model = ModelRepository(session).get(job.model_id)
        workload = None if model is None else _workload(session, platform.settings, model, job)
        available = None if workload is None else _available(session, platform.settings)
    if workload is None or available is None:
        return None
    try:
        plan_step(workload, job, available)
    except DoesNotFit as lack:
        fits = {
            "batch_size": lack.batch_size,
            "max_seq_length": lack.max_seq_length,
            "sharding": lack.sharding,
            "devices": _devices_that_fit(workload, job, available),
        }
        message = lack.message
        if fits["devices"] is not None:
            message += f" On devices {fits['devices']} it would fit as it is."
        details = {"needed_gb": round(lack.needed / GB, 2), "available_gb": round(lack.available / GB, 2), "fits": fits}
        return TooLittleMemory(message, **details)
    return None


def _devices_that_fit(workload: Workload, job: FinetuneParameters, available: int) -> int | None:
    """Return the number of this machine's GPUs if the job, which does not fit one, fits all of them together."""
    count = min(len(gpus()), job.batch_size)
    if job.devices > 1 or count < 2 or workload.shape.on_cpu:
        return None
    shared = replace(workload, shape=replace(workload.shape, devices=count))
    try:
        plan_step(shared, job.model_copy(update={"devices": count}), available)
    except DoesNotFit:
        return None
    return count


def _workload(session: Session, settings: Settings, model: Model, job: FinetuneParameters) -> Workload | None:
    """Return what the job amounts to; None where the weights are not on this machine, or of an unknown shape."""
    folder = weights_on_disk(model, settings)
    if folder is None:
        return None
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        sizes, parameters, layers = sizes_of(config), count_parameters(folder), linear_layers(folder)
    except (OSError, ValueError, KeyError, AttributeError, SafetensorError):
        return None  # damaged: the trainer says how
    if sizes is None:
        return None
    adapted = [
        size
        for name, size in layers.items()
        if not job.target_modules or any(names_layer(name, target) for target in job.target_modules)
    ]
    sizes = replace(sizes, adapted=tuple(adapted) if adapted and job.method != "full" else None)
    shape = _shape(settings, job, config, sizes, parameters, fresh=model.adapter is None)
    dataset = DatasetRepository(session).get(job.dataset_id) if job.dataset_id is not None else None
    report = (dataset.report if dataset is not None else None) or {}
    # A window may have several pieces of a text.
    longest = max(report.get("length_max") or 0, report.get("document_max") or 0)
    bounds = (job.max_seq_length, sizes.context, longest)
    return Workload(sizes, shape, min(bound for bound in bounds if bound))


def _shape(
    settings: Settings,
    job: FinetuneParameters,
    config: Mapping[str, Any],
    sizes: ModelSizes,
    parameters: int,
    *,
    fresh: bool,
) -> StepShape:
    """Return what a step is made of; `fresh` says that no adapter lies below the one to train."""
    element_bytes = 4 if settings.compute_dtype == "float32" else 2
    on_cpu = not has_gpu(settings)
    if job.method == "full":
        return StepShape(
            "padded", element_bytes, 0, parameters, rank=0, dropout=False, on_cpu=on_cpu, devices=job.devices
        )
    packed = fresh and job.method in ("lora", "rslora")
    frozen_bytes = parameters * element_bytes
    if job.method == "qlora":
        frozen_bytes = sizes.four_bit_bytes(parameters, element_bytes)
    return StepShape(
        backend=likely_backend(config) if packed else "padded",
        element_bytes=element_bytes,
        frozen_bytes=frozen_bytes,
        trained_parameters=sizes.adapter_parameters(job.lora_r, job.target_modules),
        rank=job.lora_r,
        dropout=job.lora_dropout > 0,
        on_cpu=on_cpu,
        dora=job.method == "dora",
        devices=job.devices,
    )


def has_gpu(settings: Settings) -> bool:
    """Return whether jobs will train on a GPU, as far as can be known without torch."""
    return settings.device.startswith("cuda") or (settings.device == "auto" and bool(gpus()))


def _available(session: Session, settings: Settings) -> int | None:
    """Return the bytes that a job will find: all of a GPU's, or the machine's with what running jobs give back."""
    if settings.training_memory_bytes is not None:
        return settings.training_memory_bytes
    if has_gpu(settings):
        return max(gpus(), default=None)
    running = [job for job in TrainingJobRepository(session).unfinished() if job.status == "RUNNING"]
    return free_memory() + sum(attempt_memory(job) for job in running)
