"""Frozen weights divided among the devices of a run, by torch's FSDP2: each holds a part, and a layer is whole in use.

What trains stays whole on every device, so that gradients, clipping, optimizer and checkpoints are those of any run.
"""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from transformers.modeling_layers import GradientCheckpointingLayer

from tasks.lora.adapter import TrainedModel, trainable_weights


def shard(model: TrainedModel, device: torch.device) -> None:
    """Leave a part of every frozen weight in `model`, this rank's, on its `device`; what trains moves there whole.

    `model` may lie elsewhere: it comes to the device layer by layer. All ranks of the open process group call this,
    each for itself. From now on they must compute forward and backward passes together, as many of them on each: in a
    pass every layer is gathered when it is computed, and let go again.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # the parts go to the device that is current
    world = dist.group.WORLD
    assert world is not None
    mesh = DeviceMesh.from_group(world, device.type)
    trained = trainable_weights(model).values()
    for weight in trained:
        weight.data = weight.data.to(device)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    # The model itself comes last, for the weights outside its layers: embeddings, final norm and head.
    for module in [*layers, model]:
        # Also of the model itself: by default the outermost keeps its weights between passes.
        fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=set(trained))


def is_sharded(model: nn.Module) -> bool:
    """Tell whether `shard` has divided the model's weights."""
    return isinstance(model, FSDPModule)


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of the frozen weights that this rank holds between two passes."""
    frozen = (weight for weight in model.parameters() if not weight.requires_grad)
    held = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in frozen)
    return sum(weight.untyped_storage().nbytes() for weight in held)
