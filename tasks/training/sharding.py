"""Sharding by torch's FSDP2: each device holds a part of every weight, and a layer is gathered while it is used.

An adapter is replicated on every device, so its gradients, clipping, optimizer and checkpoints are those of any run.
"""

import torch
import torch.distributed as dist
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from tasks.training.adapter import TrainedModel, trainable_weights


def shard(model: TrainedModel, device: torch.device) -> None:
    """Shard every weight of `model` on this rank's `device`; an adapter is moved there unsharded.

    `model` may lie elsewhere: it comes to the device layer by layer. All ranks of the open process group call this,
    each for itself. From now on they must compute forward and backward passes together, as many of them on each: in a
    pass every layer is gathered when it is computed, and freed again. Gradients of sharded weights are summed.
    """
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # the parts go to the device that is current
    world = dist.group.WORLD
    assert world is not None
    mesh = DeviceMesh.from_group(world, device.type)
    adapter = list(trainable_weights(model).values()) if isinstance(model, PeftModel) else []
    for weight in adapter:
        weight.data = weight.data.to(device)
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    # The model itself comes last, for the weights outside its layers: embeddings, final norm and head.
    for module in [*layers, model]:
        # Also of the model itself: by default the outermost keeps its weights between passes.
        part = fully_shard(module, mesh=mesh, reshard_after_forward=True, ignored_params=set(adapter))
        # A plain sum, which gloo knows too: the loss is divided by the labelled tokens of all ranks already.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)


def is_sharded(model: nn.Module) -> bool:
    """Return whether `shard` was applied to the model."""
    return isinstance(model, FSDPModule)


def full_tensor(tensor: Tensor) -> Tensor:
    """Return the full tensor of a perhaps sharded one; if it is sharded all ranks must call this together."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded_like(tensor: Tensor, example: Tensor) -> Tensor:
    """Return this rank's shard of a tensor that every rank has in full, if `example` is sharded; else the tensor."""
    if not isinstance(example, DTensor):
        return tensor
    # No communication: every rank has the full tensor.
    return distribute_tensor(tensor.to(example.device), example.device_mesh, example.placements, src_data_rank=None)


def held_bytes(model: nn.Module) -> int:
    """Return the bytes of the base's weights that this rank holds between two passes."""
    base = (weight for name, weight in model.named_parameters() if ".lora_" not in name)
    held = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in base)
    return sum(weight.untyped_storage().nbytes() for weight in held)
