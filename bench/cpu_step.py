"""How fast the engine's step is on this CPU: the compiled step in bfloat16 and int8 beside the one in plain torch.

Each round starts some texts of 32 tokens and decodes 128 more of each; the networks take turns. The
floor is the time to read all weights once at the memory's measured speed: no step of one text can be faster. `1 thread`
is the processor time of a step on one thread: on a busy machine it says more than the clock.

    python -m bench.cpu_step [--rounds 3] [--steps 128]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from tasks.inference.cpu.decoder import CpuDecoder
from tasks.inference.network.decoder import Decoder
from tasks.inference.network.shape import shape_of
from tasks.inference.network.step import KVArena, Network, StepBatch
from tasks.models.loading import load_config

BASE = Path("data/models/HuggingFaceTB/SmolLM2-135M-Instruct")
PROMPT, ROOM = 32, 1024
STREAMS = (1, 8, 32)
SHAPE = shape_of(load_config(BASE))


def batch(ids: Tensor, cached: int, adapters: list[int] | None = None) -> StepBatch:
    """One step of `ids` `[texts, tokens]`, each text with `cached` tokens behind it."""
    texts, tokens = ids.shape
    return StepBatch(
        ids.flatten(),
        (torch.arange(tokens) + cached).repeat(texts),
        (torch.arange(texts + 1) * tokens).int(),
        torch.arange(texts) * ROOM,
        torch.full((texts,), cached, dtype=torch.int32),
        torch.tensor(adapters or [-1] * texts, dtype=torch.int32),
        (torch.arange(texts * tokens) + 1) % tokens == 0,
    )


def decode(network: Network, arena: KVArena, texts: int, steps: int, adapters: list[int] | None = None) -> list[float]:
    """Seconds of every step of greedy decoding after the prompt."""
    ids = torch.randint(1000, (texts, PROMPT), generator=torch.Generator().manual_seed(texts))
    token = network.step(batch(ids, 0, adapters), arena).argmax(-1, keepdim=True)
    seconds = []
    for step in range(steps):
        begin = time.perf_counter()
        token = network.step(batch(token, PROMPT + step, adapters), arena).argmax(-1, keepdim=True)
        seconds.append(time.perf_counter() - begin)
    return seconds


def thread_seconds(network: Network, texts: int, steps: int) -> float:
    """Processor seconds of a step of a network with one thread, in the middle of the texts."""
    arena, times = network.allocate(texts * ROOM), []
    ids = torch.zeros(texts, 1, dtype=torch.int64)
    for _ in range(steps):
        begin = time.thread_time()
        network.step(batch(ids, PROMPT + 64), arena)
        times.append(time.thread_time() - begin)
    return median(times)


def read_speed() -> float:
    """Bytes a second that all threads together read from memory: the best of some sums of a gigabyte."""
    numbers = torch.ones(2**28)
    return numbers.nbytes / min(timed(numbers.sum) for _ in range(8))


def timed(work: Callable[[], object]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def save_adapters(folder: Path, count: int) -> list[Path]:
    """Save adapters of rank 16 on all products."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", init_lora_weights=False)
    adapted = get_peft_model(model, config)
    for number in range(count):
        adapted.save_pretrained(folder / str(number))
    return [folder / str(number) for number in range(count)]


def measure_texts(networks: dict[str, Network], rounds: int, steps: int) -> None:
    """Print tok/s of every network, in turns."""
    speed = read_speed()
    print(f"{torch.get_num_threads()} threads, {speed / 1e9:.1f} GB/s read, load average {os.getloadavg()[0]:.1f}")
    print(f"| tok/s: best round (median step) | {' | '.join(f'{n} texts' for n in STREAMS)} | of the floor, 1 text |")
    print("| --- " * (len(STREAMS) + 2) + "|")
    seconds: dict[tuple[str, int], list[list[float]]] = {}
    for _ in range(rounds):
        for texts in STREAMS:
            for name, network in networks.items():
                times = decode(network, network.allocate(texts * ROOM), texts, steps)
                seconds.setdefault((name, texts), []).append(times)
    for name, network in networks.items():
        cells = []
        for texts in STREAMS:
            best, middle = min(map(sum, seconds[name, texts])) / steps, min(map(median, seconds[name, texts]))
            cells.append(f"{texts / best:.0f} ({texts / middle:.0f})")
        share = network.bytes / speed / min(map(median, seconds[name, 1]))
        print(f"| {name} | {' | '.join(cells)} | {share:.0%} |", flush=True)


def measure_threads(steps: int) -> None:
    """Print the processor time of a step on one thread."""
    for int8 in (False, True):
        single = CpuDecoder(BASE, SHAPE, torch.bfloat16, 1, int8)
        times = " / ".join(f"{1e3 * thread_seconds(single, texts, steps):.1f}" for texts in STREAMS)
        print(
            f"1 thread, {'int8' if int8 else 'bfloat16'}: {times} ms of processor time for {STREAMS} texts", flush=True
        )


def measure_prompts(networks: dict[str, Network], rounds: int) -> None:
    """Print how fast a prompt of 512 tokens is read."""
    prompt = batch(torch.randint(1000, (1, 512)), 0)
    for name, network in networks.items():
        arena = network.allocate(ROOM)
        best = min(timed(partial(network.step, prompt, arena)) for _ in range(rounds + 1))
        print(f"prompt of 512, {name}: {512 / best:.0f} tok/s", flush=True)


def measure_adapters(network: Network, rounds: int, steps: int) -> None:
    """Print tok/s of 32 texts without adapter, with one, and with eight."""
    with tempfile.TemporaryDirectory() as folder:
        numbers = [network.load_adapter(path).number for path in save_adapters(Path(folder), 8)]
    arena = network.allocate(32 * ROOM)
    mixes = {"none": None, "one": [numbers[0]] * 32, "eight": sorted(numbers * 4)}
    times: dict[str, list[float]] = {name: [] for name in mixes}
    for _ in range(rounds):
        for name, mix in mixes.items():
            times[name].append(median(decode(network, arena, 32, steps, mix)))
    print("32 texts, adapters: " + ", ".join(f"{name} {32 / min(each):.0f} tok/s" for name, each in times.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=128)
    options = parser.parse_args()
    threads, bfloat16 = torch.get_num_threads(), torch.bfloat16
    begin = time.perf_counter()
    ours = CpuDecoder(BASE, SHAPE, bfloat16, threads)
    print(f"loaded, and compiled or read from the cache, in {time.perf_counter() - begin:.1f} s")
    networks: dict[str, Network] = {
        "compiled, bfloat16": ours,
        "compiled, int8": CpuDecoder(BASE, SHAPE, bfloat16, threads, int8=True),
        "torch, bfloat16": Decoder(BASE, SHAPE, bfloat16, torch.device("cpu")),
    }
    measure_threads(20)
    measure_texts(networks, options.rounds, options.steps)
    measure_prompts(networks, options.rounds)
    measure_adapters(ours, options.rounds, options.steps // 4)


if __name__ == "__main__":
    main()
