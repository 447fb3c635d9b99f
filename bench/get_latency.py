"""Latency of the GET endpoints at a fixed rate, over a small and a large database: `python -m bench.get_latency`.

Fills a fresh database with models, jobs and evaluations, starts the API's own process over it (the other parts are not
needed for reading), and sends requests at a steady rate from this process. A request that can't be sent in time because
earlier ones are still open counts from the moment at which it should have been sent.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from sqlalchemy import insert

from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.clock import utcnow
from registry.database import Database, upgrade
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import Evaluation, JobEvent, TrainingJob

PORT = 5900


def fill(url: str, jobs: int, evaluations: int) -> None:
    upgrade(url)
    database = Database(url)
    now = utcnow()
    recipe = job_of_parameters(FinetuneParameters(model_id=1)).recipe
    parameters = evaluation_of_parameters(EvaluationParameters(model_id=1)).parameters
    done = {"model_id": 1, "status": "COMPLETED", "created_at": now, "started_at": now, "completed_at": now}
    numbers = dict.fromkeys(("perplexity", "bleu_score", "rouge_score", "response_diversity"), 0.5)
    with database.transaction() as session:
        session.execute(
            insert(TrainingJob),
            [
                {**done, "uid": f"j{i}", "job_name": f"job {i}", "recipe": recipe, "flow_run_id": f"r{i}", "step": 9}
                for i in range(jobs)
            ],
        )
        lines = [{"job_id": i % jobs + 1, "kind": "log", "message": f"line {i}", "data": {}} for i in range(20 * jobs)]
        session.execute(insert(JobEvent), lines)
        session.execute(
            insert(Evaluation),
            [
                {**done, **numbers, "avg_response_length": 9.0, "uid": f"e{i}", "eval_name": f"evaluation {i}"}
                | {"parameters": parameters, "flow_run_id": f"e{i}"}
                for i in range(evaluations)
            ],
        )
    database.close()


def paths(jobs: int, evaluations: int) -> dict[str, list[str]]:
    after = [random.randrange(jobs) for _ in range(50)]
    return {
        "GET /health": ["/health"],
        "GET /models": ["/models"],
        "GET /models/{id}": ["/models/1"],
        "GET /training?limit=20": [f"/training?limit=20&after={id_}" for id_ in after],
        "GET /training/{id}": [f"/training/{id_ + 1}" for id_ in after],
        "GET /evaluations?limit=20": [f"/evaluations?limit=20&after={id_ * evaluations // jobs}" for id_ in after],
        "GET /evaluations/{id}": [f"/evaluations/{id_ + 1}" for id_ in after],
        "GET /statistics": ["/statistics"],
    }


async def load(base_url: str, kinds: dict[str, list[str]], rate: float, seconds: float) -> dict[str, list[float]]:
    taken: dict[str, list[float]] = {kind: [] for kind in kinds}
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=base_url, timeout=30, limits=limits) as client:

        async def one(kind: str, path: str, due: float) -> None:
            (await client.get(path)).raise_for_status()
            taken[kind].append(time.perf_counter() - due)

        names = list(kinds)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                due = started + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                kind = names[number % len(names)]
                group.create_task(one(kind, random.choice(kinds[kind]), due))
    return taken


def measure(jobs: int, evaluations: int, rate: float, seconds: float) -> dict[str, list[float]]:
    with tempfile.TemporaryDirectory() as folder:
        fill(f"sqlite:///{Path(folder) / 'platform.db'}", jobs, evaluations)
        environment = {
            **os.environ,
            "LLM_PLATFORM_DATA_DIR": folder,
            "LLM_PLATFORM_API_PORT": str(PORT),
            "LLM_PLATFORM_ALLOW_HUB": "false",
        }
        process = subprocess.Popen([sys.executable, "-m", "api.server"], env=environment, stderr=subprocess.DEVNULL)
        base_url = f"http://127.0.0.1:{PORT}/api"
        started = time.monotonic()
        try:
            while True:
                try:
                    httpx.get(f"{base_url}/health").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.02)
            answered = time.monotonic() - started
            print(f"{jobs} jobs, {evaluations} evaluations: /api/health answered {answered:.2f} s after the start")
            kinds = paths(jobs, evaluations)
            asyncio.run(load(base_url, kinds, rate, 3))  # warm-up
            return asyncio.run(load(base_url, kinds, rate, seconds))
        finally:
            process.terminate()
            process.wait()


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=100, help="requests a second, over all endpoints")
    parser.add_argument("--seconds", type=float, default=20)
    arguments = parser.parse_args()
    small = measure(100, 1_000, arguments.rate, arguments.seconds)
    large = measure(10_000, 100_000, arguments.rate, arguments.seconds)
    print(f"{arguments.rate:.0f} requests/s, milliseconds")
    print(f"{'endpoint':28} {'p50 small':>10} {'p50 large':>10} {'p99 small':>10} {'p99 large':>10} {'p50 ratio':>10}")
    for kind in small:
        p50, p99 = ([1000 * percentile(taken[kind], share) for taken in (small, large)] for share in (0.5, 0.99))
        print(f"{kind:28} {p50[0]:10.1f} {p50[1]:10.1f} {p99[0]:10.1f} {p99[1]:10.1f} {p50[1] / p50[0]:10.2f}")
    every = [value for values in large.values() for value in values]
    p50, p99 = 1000 * statistics.median(every), 1000 * percentile(every, 0.99)
    print(f"all endpoints, large: p50 {p50:.1f} ms, p99 {p99:.1f} ms")


if __name__ == "__main__":
    main()
