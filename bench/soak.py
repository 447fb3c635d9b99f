"""The engine under random clients for a long time: `python -m bench.soak --minutes 10` (after `make model`).

Clients join and leave the engine's process at random: with any of several adapters or none, prompts and answers of any
length, streaming or not, some of them closing the connection in the middle. A seeded request now and then must give
the text that it gave before. At the end no place, no token of the cache and no request may be left, and the process
must hold no more memory than it did after the first minutes.
"""

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil

from api.engine_server.schemas import EngineGenerateRequest
from api.generation.engine_client import EngineClient
from tests.api.engine_server.conftest import EngineProcess
from tests.tasks.inference.adapters import save_adapter

MODELS = Path("data/models").resolve()
BASE = MODELS / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
ADAPTERS = 8
WARM_SHARE = 0.3
"""Of the time, after which memory may no longer grow: by then every adapter and every size of batch has been met."""
MOST_GROWTH = 1.05
WORDS = ["river", "stone", "paper", "light", "engine", "garden", "history", "music", "number", "window", "winter"]


class Soak:
    """Random clients of one engine, and what became of them."""

    def __init__(self, client: EngineClient, adapters: list[Path], seed: int) -> None:
        self.client = client
        self.adapters: list[Path | None] = [None, *adapters]
        self.random = random.Random(seed)
        self.ended: Counter[str] = Counter()
        self.tokens = 0
        self.reference: dict[int, str] = {}

    def request(self) -> EngineGenerateRequest:
        generator = self.random
        adapter = generator.choice(self.adapters)
        return EngineGenerateRequest(
            weights=str(BASE),
            adapter=str(adapter) if adapter else None,
            prompt=" ".join(generator.choices(WORDS, k=generator.choice([1, 8, 30, 150, 600]))),
            max_new_tokens=generator.choice([1, 5, 20, 60, 200]),
            temperature=generator.choice([0.0, 0.7, 1.3]),
            top_k=generator.choice([0, 1, 50]),
            min_p=generator.choice([0.0, 0.05]),
            repetition_penalty=generator.choice([1.0, 1.2]),
            logprobs=generator.choice([None, None, 5]),
            stop=generator.choice([[], ["the"]]),
        )

    async def stream(self, leaves: bool) -> None:
        events = self.client.stream(self.request())
        most = self.random.choice([0, 1, 7]) if leaves else None
        seen = 0
        async for event in events:
            if event.get("done"):
                self.tokens += event["generated_tokens"]
                break
            seen += 1
            if most is not None and seen > most:
                break
        await events.aclose()
        self.ended["left" if leaves else "streamed"] += 1

    async def full_answer(self) -> None:
        self.tokens += (await self.client.generate(self.request())).generated_tokens
        self.ended["whole"] += 1

    async def hung_up(self) -> None:
        task = asyncio.ensure_future(self.client.generate(self.request()))
        await asyncio.sleep(self.random.uniform(0, 1))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        self.ended["hung up"] += 1

    async def repeated(self) -> None:
        """Ask for one of a few seeded answers again, whatever else runs."""
        number = self.random.randrange(4)
        adapter = self.adapters[number]
        request = EngineGenerateRequest(
            weights=str(BASE),
            adapter=str(adapter) if adapter else None,
            prompt=f"Tell me about the {WORDS[number]}",
            max_new_tokens=24,
            temperature=1.0,
            seed=number,
        )
        answer = await self.client.generate(request)
        expected = self.reference.setdefault(number, answer.text)
        self.ended["the same again" if answer.text == expected else "ANOTHER TEXT"] += 1

    async def one(self) -> None:
        kind = self.random.random()
        if kind < 0.35:
            await self.stream(leaves=False)
        elif kind < 0.6:
            await self.stream(leaves=True)
        elif kind < 0.8:
            await self.full_answer()
        elif kind < 0.9:
            await self.hung_up()
        else:
            await self.repeated()


async def soak(
    url: str, process: psutil.Process, adapters: list[Path], minutes: float, clients: int, seed: int
) -> bool:
    """Run the clients; print what happened and return whether nothing is left and memory stayed as it was."""
    began, warm = time.monotonic(), 0
    seconds = minutes * 60
    async with EngineClient(url) as client:
        work = Soak(client, adapters, seed)
        running: set[asyncio.Task[None]] = set()
        next_line = 0.0
        while (elapsed := time.monotonic() - began) < seconds:
            while len(running) < clients:
                running.add(asyncio.ensure_future(work.one()))
            done, running = await asyncio.wait(running, timeout=1, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            memory = process.memory_info().rss
            if elapsed < seconds * WARM_SHARE:
                warm = max(warm, memory)
            if elapsed >= next_line:
                health = await client.health()
                print(f"{elapsed:5.0f} s  {memory / 1e6:6.0f} MB  {health.running} running, {health.waiting} waiting")
                next_line += seconds / 10
        await asyncio.gather(*running)
        await asyncio.sleep(1)
        health = await client.health()
        memory = process.memory_info().rss
        taken = sum(model["cache_tokens_used"] for model in health.models)
    print(f"{sum(work.ended.values())} requests, {work.tokens} tokens: {dict(work.ended)}")
    print(f"left: {health.running} running, {health.waiting} waiting, {taken} tokens of the cache taken")
    print(f"memory: at most {warm / 1e6:.0f} MB in the first {WARM_SHARE:.0%}, {memory / 1e6:.0f} MB at the end")
    clean = (health.running, health.waiting, taken, work.ended["ANOTHER TEXT"]) == (0, 0, 0, 0)
    return clean and memory <= MOST_GROWTH * warm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder)
        adapters = [
            save_adapter(BASE, data / "adapters" / str(number), seed=number, rank=4 + number)
            for number in range(ADAPTERS)
        ]
        engine = EngineProcess(MODELS, data, LLM_PLATFORM_COMPUTE_DTYPE="bfloat16", OMP_NUM_THREADS="2")
        try:
            work = soak(
                engine.url,
                psutil.Process(engine.process.pid),
                adapters,
                arguments.minutes,
                arguments.clients,
                arguments.seed,
            )
            fine = asyncio.run(work)
        finally:
            engine.stop()
    print("no slot lost, memory flat, seeded texts the same" if fine else "NOT CLEAN")
    sys.exit(not fine)


if __name__ == "__main__":
    main()
