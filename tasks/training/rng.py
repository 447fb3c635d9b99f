"""The random state of one run (dropout): separate from the rest of the process, saved and restored exactly."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from tasks.training.errors import CheckpointMismatch


@contextmanager
def private_rng(device: torch.device, seed: int | None = None) -> Iterator[None]:
    """Lend torch's generators to the block, seeded if `seed` is given, and put their state back afterwards.

    Dropout uses torch's global generators, so the run borrows them and restores their state.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices, device_type="cuda"):
        if seed is not None:
            torch.default_generator.manual_seed(seed)
            if devices:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
        yield


def seed_of_rank(seed: int, rank: int) -> int:
    """Return the seed of a rank's own stream: rank 0's is `seed`, so that it has the numbers of a run on one device."""
    if rank == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed}/rank {rank}".encode()).digest()[:8], "big") >> 1


def rng_state(device: torch.device) -> dict[str, Tensor]:
    """Return the generators' states, one uint8 tensor for the CPU and one for the CUDA device in use."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_rng(device: torch.device, states: dict[str, Tensor]) -> None:
    """Set the generators to `states`. Raises CheckpointMismatch when they don't fit: dropout would differ."""
    expected = {"cpu", "cuda"} if device.type == "cuda" else {"cpu"}
    if set(states) != expected:
        raise CheckpointMismatch(f"the checkpoint holds random states for {sorted(states)}, not {sorted(expected)}")
    try:
        torch.set_rng_state(states["cpu"])
        if device.type == "cuda":
            torch.cuda.set_rng_state(states["cuda"], device)
    except (RuntimeError, TypeError) as error:
        raise CheckpointMismatch(f"the checkpoint's random state does not fit this torch: {error}") from error
