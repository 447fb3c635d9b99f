"""Generation speed of the engine beside its peers, in one go: `python -m bench.inference` (after `make model`).

32 prompt tokens and 128 new ones, greedy, bfloat16, at 1, 8 and 32 streams: our engine in process and over HTTP,
transformers' `generate` (a static batch), transformers' continuous batching, and llama.cpp's server if one is named.
The contenders take turns within every round, each in a process of its own that sleeps meanwhile.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import httpx

from api.engine_server.server import SPIN_COUNT
from bench.servers import MODEL, Server, llama_cpp, own_engine, running

PROMPT_TOKENS = 32
WORDS = ["river", "stone", "paper", "light", "engine", "garden", "history", "music", "number", "window", "winter"]
Prompts = list[list[int]]
Run = Callable[[Prompts, int], int]
"""Continues every prompt by so many tokens, all at once; returns how many came."""
Measure = Callable[[Prompts, int], float]
"""The same, but returns tokens per second."""


def ours(model: Path, adapters: list[Path], int8: bool = False) -> Run:
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)  # as in the engine's own process, before torch is there
    import torch

    from tasks.inference.engine import Engine, GenerationRequest, ModelRef

    engine = Engine(torch.bfloat16, torch.device("cpu"), memory_budget_bytes=4_000_000_000, int8=int8)
    kinds = [ModelRef(model, adapter) for adapter in adapters] or [ModelRef(model)]

    def run(prompts: Prompts, new: int) -> int:
        requests = [
            GenerationRequest(kinds[index % len(kinds)], ids, new, temperature=0.0) for index, ids in enumerate(prompts)
        ]
        return sum(len(generation.result()) for generation in [engine.submit(request) for request in requests])

    return run


def transformers_generate(model: Path) -> Run:
    import torch
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).eval()

    def run(prompts: Prompts, new: int) -> int:
        ids = torch.tensor(prompts)
        options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 2}
        return int(network.generate(ids, attention_mask=torch.ones_like(ids), **options)[:, ids.shape[1] :].numel())

    return run


def transformers_continuous(model: Path) -> Run:
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()

    def run(prompts: Prompts, new: int) -> int:
        config = GenerationConfig(max_new_tokens=new, do_sample=False, eos_token_id=-1, pad_token_id=0)
        answers = network.generate_batch(prompts, generation_config=config)
        return sum(len(answer.generated_tokens) for answer in answers.values())

    return run


def _serve(pipe: Connection, make: Callable[..., Run], arguments: tuple[object, ...]) -> None:
    run = make(*arguments)
    run([[1] * PROMPT_TOKENS] * 2, 4)
    pipe.send(None)
    while (work := pipe.recv()) is not None:
        begun = time.perf_counter()
        tokens = run(*work)
        pipe.send((tokens, time.perf_counter() - begun))


@contextmanager
def in_a_process(make: Callable[..., Run], *arguments: object) -> Iterator[Measure]:
    """Yield a function that returns tokens per second."""
    pipe, theirs = get_context("spawn").Pipe()
    # A daemon: it ends with this process, however that ends.
    process = get_context("spawn").Process(target=_serve, args=(theirs, make, arguments), daemon=True)
    process.start()
    pipe.recv()

    def measure(prompts: Prompts, new: int) -> float:
        pipe.send((prompts, new))
        tokens, seconds = pipe.recv()
        return float(tokens / seconds)

    yield measure
    pipe.send(None)
    process.join()


@dataclass(frozen=True)
class Endpoint:
    """How to ask a server: where, with what, and what its answer calls the number of new tokens."""

    path: str
    body: dict[str, object]
    limit: str
    count: str


OWN_DOOR = Endpoint(
    "/generate", {"weights": str(MODEL.resolve()), "temperature": 0}, "max_new_tokens", "generated_tokens"
)
LLAMA_DOOR = Endpoint(
    "/completion", {"temperature": 0, "ignore_eos": True, "cache_prompt": False}, "n_predict", "tokens_predicted"
)


@contextmanager
def over_http(server: Server, endpoint: Endpoint) -> Iterator[Measure]:
    """Yield a function that returns tokens per second of as many clients as there are prompts."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    with ExitStack() as stack:
        url = stack.enter_context(running(server))
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
        http = stack.enter_context(httpx.Client(base_url=url, timeout=600, limits=limits, trust_env=False))

        def one(text: str, new: int) -> int:
            response = http.post(endpoint.path, json={**endpoint.body, "prompt": text, endpoint.limit: new})
            return int(response.raise_for_status().json()[endpoint.count])

        def measure(prompts: Prompts, new: int) -> float:
            texts = [tokenizer.decode(ids) for ids in prompts]
            with ThreadPoolExecutor(len(texts)) as clients:
                begun = time.perf_counter()
                tokens = sum(clients.map(one, texts, [new] * len(texts)))
                return tokens / (time.perf_counter() - begun)

        measure([[1000] * PROMPT_TOKENS] * 2, 4)
        yield measure


def prompts_of(count: int) -> Prompts:
    """Return prompts of exactly `PROMPT_TOKENS` tokens that survive the way through text."""
    from transformers import AutoTokenizer

    tokenizer, dice = AutoTokenizer.from_pretrained(MODEL), random.Random(1)
    found: Prompts = []
    while len(found) < count:
        ids = tokenizer(f"Once upon a time the {' '.join(dice.choices(WORDS, k=40))}")["input_ids"][:PROMPT_TOKENS]
        if tokenizer(tokenizer.decode(ids))["input_ids"] == ids:
            found.append(ids)
    return found


def random_adapters(folder: Path, count: int) -> list[Path]:
    """Return LoRA adapters of rank 8 on all products, with random numbers."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    for number in range(count):
        config = LoraConfig(r=8, target_modules="all-linear", init_lora_weights=False)
        torch.manual_seed(number)
        get_peft_model(AutoModelForCausalLM.from_pretrained(MODEL), config).save_pretrained(folder / str(number))
    return [folder / str(number) for number in range(count)]


def contenders(stack: ExitStack, arguments: argparse.Namespace) -> dict[str, Measure]:
    folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    adapters = random_adapters(folder, 8) if arguments.adapters else []
    model = MODEL.resolve()
    ways = {
        "ours": in_a_process(ours, model, []),
        "ours over HTTP": over_http(own_engine(), OWN_DOOR),
        "ours, int8": in_a_process(ours, model, [], True),
        "ours over HTTP, int8": over_http(own_engine(int8=True), OWN_DOOR),
        "transformers generate": in_a_process(transformers_generate, model),
        "transformers continuous batching": in_a_process(transformers_continuous, model),
    }
    if arguments.adapters:
        ways["ours, one adapter"] = in_a_process(ours, model, adapters[:1])
        ways["ours, eight adapters"] = in_a_process(ours, model, adapters)
    for gguf in arguments.gguf:
        ways[f"llama.cpp server, {Path(gguf).stem}"] = over_http(llama_cpp(arguments.llama_server, gguf), LLAMA_DOOR)
    return {
        name: stack.enter_context(way) for name, way in ways.items() if not arguments.only or name in arguments.only
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--new-tokens", type=int, default=128)
    parser.add_argument("--adapters", action="store_true", help="also with one adapter and with eight mixed")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="just these contenders")
    parser.add_argument("--llama-server", help="path of llama.cpp's llama-server")
    parser.add_argument("--gguf", nargs="+", default=[], help="the model files for it, each a contender")
    arguments = parser.parse_args()
    prompts = prompts_of(max(arguments.streams))
    with ExitStack() as stack:
        runs = contenders(stack, arguments)
        speeds: dict[tuple[str, int], list[float]] = {}
        for number in range(arguments.rounds):
            for streams in arguments.streams:
                for name, measure in runs.items():
                    speed = measure(prompts[:streams], arguments.new_tokens)
                    speeds.setdefault((name, streams), []).append(speed)
                    load = os.getloadavg()[0]
                    print(f"round {number + 1}: {name}, {streams}: {speed:.1f} tok/s (load {load:.1f})", flush=True)
    first = next(iter(runs))
    print(f"\n| tokens/s, median of {arguments.rounds} | " + " | ".join(map(str, arguments.streams)) + " |")
    print("| --- |" + " --- |" * len(arguments.streams))
    for name in runs:
        cells = []
        for streams in arguments.streams:
            median = statistics.median(speeds[name, streams])
            cells.append(f"{median:.0f} ({statistics.median(speeds[first, streams]) / median:.2f})")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(f"In brackets: how many times faster {first!r} is.")


if __name__ == "__main__":
    main()
