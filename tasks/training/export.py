"""From a checkpoint to an adapter folder that can be served, without torch: the trained weights in peft's format."""

import hashlib
import json
import math
import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, load_file, save

from configs.chat_format import CHAT_TEMPLATE_FILE
from tasks.atomic_files import StagingFolder
from tasks.training.checkpoint_list import MANIFEST, weights_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_SHORTEST_HASH = 8

Tensors = dict[str, NDArray[np.float32]]


def export_adapter(checkpoint: Path, untrained: Path, adapters: Path, prefix: str, scale: float) -> Path:
    """Return the folder of a checkpoint's adapter under `adapters`, which appears atomically at the first call.

    `untrained` is the job's adapter before its first step, as `save_adapter` wrote it, and `scale` the recipe's
    `lora_scale`. The folder is named after the weights' hash, so that it never means other ones. Raises
    FileNotFoundError if the checkpoint or `untrained` is gone, ValueError if the checkpoint is damaged.
    """
    manifest = json.loads((checkpoint / MANIFEST).read_bytes())
    trained = checkpoint / weights_file(manifest)
    digest = manifest["sha256"][trained.name]
    folder = adapters / f"{prefix}{checkpoint.name}-{digest[:_SHORTEST_HASH]}"
    if folder.is_dir():
        return folder
    content = trained.read_bytes()
    if hashlib.sha256(content).hexdigest() != digest:
        raise ValueError(f"{trained} is not what was written")
    config = (untrained / CONFIG).read_bytes()
    settings = json.loads(config)
    tensors = load_file(untrained / WEIGHTS)
    # An adapter on top of a frozen one is saved with both scales in its weights, and says a scale of 1.
    rank = math.sqrt(settings["r"]) if settings.get("use_rslora") else settings["r"]
    factor = scale * rank / settings["lora_alpha"]
    _insert(tensors, load(content), factor)
    staging = StagingFolder(adapters, "checkpoint")
    try:
        (staging.path / CONFIG).write_bytes(config)
        if (untrained / CHAT_TEMPLATE_FILE).is_file():
            shutil.copyfile(untrained / CHAT_TEMPLATE_FILE, staging.path / CHAT_TEMPLATE_FILE)
        (staging.path / WEIGHTS).write_bytes(save(tensors, metadata={"format": "pt"}))
        staging.publish(folder)
    finally:
        staging.close()
    return folder


def _insert(tensors: Tensors, trained: Tensors, factor: float) -> None:
    """Put the trained factors in the place of the untrained ones: the last of the rank, behind a frozen adapter's."""
    for name, weight in trained.items():
        place = f"{name.removesuffix('.default.weight')}.weight"
        if ".lora_A." in place:
            tensors[place][-len(weight) :] = weight
        else:
            tensors[place][:, -weight.shape[1] :] = weight * np.float32(factor)
