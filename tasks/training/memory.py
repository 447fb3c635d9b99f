"""A device's free memory, and one error for the many out-of-memory errors of torch."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.recipe import TrainingRecipe
from tasks.training.errors import OutOfMemory
from tasks.training.machine import free_memory
from tasks.training.planning import StepPlan

# The CPU allocator raises a plain RuntimeError (c10/core/impl/alloc_cpu.cpp); only its text tells it apart.
_CPU_ALLOCATOR = ("DefaultCPUAllocator", "alloc_cpu.cpp")


@contextmanager
def memory_errors(recipe: TrainingRecipe, plan: StepPlan) -> Iterator[None]:
    """Raise OutOfMemory, naming the settings to lower, when the block runs out of memory on the CPU or on CUDA."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not out_of_memory and not any(mark in str(error) for mark in _CPU_ALLOCATOR):
            raise
        raise OutOfMemory(what_to_change(recipe, plan)) from error


def what_to_change(recipe: TrainingRecipe, plan: StepPlan) -> str:
    """Return the advice for a run that ran out of memory under `plan`."""
    if recipe.micro_batch == "auto":
        return (
            f"a training step does not fit in memory ({plan.rows_at_once}): lower max_seq_length (now "
            f"{recipe.max_seq_length}) or lora_r (now {recipe.lora_r})"
        )
    return (
        f"a training step does not fit in memory: lower batch_size (now {recipe.batch_size}; raise "
        f"gradient_accumulation by the same factor for the same result) or max_seq_length (now "
        f"{recipe.max_seq_length}), or set micro_batch to auto"
    )


def available_memory(device: torch.device) -> int:
    """Return the bytes that are free on `device`; of the CPU, what this process may still take of the machine's."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free)
    return free_memory()


def release_memory() -> None:
    """Free unreferenced memory, such as a failed step's tensors."""
    gc.collect()
    torch.cuda.empty_cache()
