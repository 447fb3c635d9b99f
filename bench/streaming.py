"""Time to the first token under streaming clients: `python -m bench.streaming` (after `make model`).

Clients ask again and again, each for a stream, with prompts of different lengths; their first requests are spread over
a second. Ours is asked at the API's `/v1/completions`, and at the engine's own endpoint; llama.cpp's server, if it is
named, at its `/v1/completions`. The contenders take turns within every round.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

from bench.servers import MODEL, llama_cpp, own_api, own_engine, running

WORDS = ["river", "stone", "paper", "light", "engine", "garden", "history", "music", "number", "window", "winter"]
PROMPT_WORDS = (10, 30, 100)


@dataclass
class Seen:
    """What the clients of one contender saw: seconds to first tokens, seconds between tokens, tokens per second."""

    first: list[float] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    """Of the server's processes, in seconds per token."""


@dataclass(frozen=True)
class Contender:
    """A server's address, its processes, and how to ask it."""

    url: str
    pids: list[int]
    body: dict[str, object]
    limit: str = "max_tokens"

    def processor_seconds(self) -> float:
        """Return what its processes have computed so far."""
        times = [psutil.Process(pid).cpu_times() for pid in self.pids]
        return sum(each.user + each.system for each in times)


async def load(contender: Contender, clients: int, requests: int, new_tokens: int, seed: int, seen: Seen) -> None:
    """Have `clients` ask `requests` times each; note what they see."""
    dice = random.Random(seed)
    tokens = 0

    async def client(http: httpx.AsyncClient, number: int) -> None:
        nonlocal tokens
        await asyncio.sleep(number / clients)
        for _ in range(requests):
            prompt = " ".join(dice.choices(WORDS, k=dice.choice(PROMPT_WORDS)))
            body = {**contender.body, "prompt": prompt, contender.limit: new_tokens, "stream": True}
            begun = time.perf_counter()
            last: float | None = None
            async with http.stream("POST", contender.url, json=body) as response:
                response.raise_for_status()
                async for line in response.aiter_lines():
                    has_text, count = _read(line)
                    tokens += count
                    if not has_text:
                        continue
                    now = time.perf_counter()
                    if last is None:
                        seen.first.append(now - begun)
                    else:
                        seen.gaps.append(now - last)
                    last = now

    # A connection each: llama.cpp's server ends idle ones without a word.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
    async with httpx.AsyncClient(timeout=600, limits=limits, trust_env=False) as http:
        begun, computed = time.perf_counter(), contender.processor_seconds()
        await asyncio.gather(*(client(http, number) for number in range(clients)))
        seen.speeds.append(tokens / (time.perf_counter() - begun))
        seen.processor.append((contender.processor_seconds() - computed) / tokens)


def _read(line: str) -> tuple[bool, int]:
    """Return whether a server-sent event brings a piece of the answer, and the tokens that it says there were."""
    if not line.startswith("data: {"):
        return False, 0
    event = json.loads(line.removeprefix("data: "))
    has_text = bool(event.get("text") or any(choice.get("text") for choice in event.get("choices", [])))
    usage = event.get("usage") or {}
    return has_text, int(usage.get("completion_tokens") or event.get("generated_tokens") or 0)


@contextmanager
def contenders(arguments: argparse.Namespace) -> Iterator[dict[str, Contender]]:
    """Start every server and yield how to reach it."""
    usage = {"stream_options": {"include_usage": True}, "temperature": 0}
    with ExitStack() as stack:
        data = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        engine = own_engine(int8=arguments.int8)
        before = _children()
        engine_url = stack.enter_context(running(engine))
        engine_pids = _children() - before
        api_url = stack.enter_context(running(own_api(engine, data)))
        weights = str(MODEL.resolve())
        found = {
            "ours": Contender(f"{api_url}/v1/completions", list(_children() - before), {"model": "1", **usage}),
            "ours, the engine's own endpoint": Contender(
                f"{engine_url}/generate", list(engine_pids), {"weights": weights, "temperature": 0}, "max_new_tokens"
            ),
        }
        for gguf in arguments.gguf:
            before = _children()
            url = stack.enter_context(running(llama_cpp(arguments.llama_server, gguf)))
            body = {**usage, "ignore_eos": True, "cache_prompt": False}
            found[f"llama.cpp server, {Path(gguf).stem}"] = Contender(
                f"{url}/v1/completions", list(_children() - before), body
            )
        yield found


def _children() -> set[int]:
    return {child.pid for child in psutil.Process().children()}


def quantile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--requests", type=int, default=4, help="of each client in a round")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--int8", action="store_true", help="ours with eight-bit weights")
    parser.add_argument("--llama-server", help="path of llama.cpp's llama-server")
    parser.add_argument("--gguf", nargs="+", default=[], help="the model files for it, each a contender")
    arguments = parser.parse_args()
    seen: dict[str, Seen] = {}
    with contenders(arguments) as found:
        for contender in found.values():
            asyncio.run(load(contender, 2, 1, 4, 0, Seen()))  # warm-up
        for number in range(arguments.rounds):
            for name, contender in found.items():
                its = seen.setdefault(name, Seen())
                work = load(contender, arguments.clients, arguments.requests, arguments.new_tokens, number, its)
                asyncio.run(work)
                print(f"round {number + 1}: {name}: {its.speeds[-1]:.0f} tok/s", flush=True)
    head = "first token p50 | p99 | gap p50 | p99 | tok/s | processor per token"
    print(f"\n| {arguments.clients} streaming clients | {head} |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, its in seen.items():
        first, gaps = ([quantile(values, share) * 1e3 for share in (0.5, 0.99)] for values in (its.first, its.gaps))
        cells = [f"{value:.0f} ms" for value in (*first, *gaps)]
        cells += [f"{statistics.median(its.speeds):.0f}", f"{statistics.median(its.processor) * 1e3:.2f} ms"]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
