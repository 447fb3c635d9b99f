"""Turns the many ways a device says "no memory left" into one error that says what to change."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from configs.recipe import TrainingRecipe
from tasks.lora.errors import OutOfMemory

# The CPU allocator raises a plain RuntimeError (c10/core/impl/alloc_cpu.cpp); only its text tells it apart.
_CPU_ALLOCATOR = ("DefaultCPUAllocator", "alloc_cpu.cpp")


@contextmanager
def memory_errors(recipe: TrainingRecipe) -> Iterator[None]:
    """Raise OutOfMemory, naming the settings to lower, when the block runs out of memory on the CPU or on CUDA."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # torch.OutOfMemoryError is a RuntimeError
        out_of_memory = isinstance(error, MemoryError | torch.OutOfMemoryError)
        if not out_of_memory and not any(mark in str(error) for mark in _CPU_ALLOCATOR):
            raise
        raise OutOfMemory(
            f"a training step does not fit in memory: lower batch_size (now {recipe.batch_size}; raise "
            f"gradient_accumulation by the same factor for the same result) or max_seq_length (now "
            f"{recipe.max_seq_length})"
        ) from error
