"""Latency of the GET endpoints at a steady rate, over a small and a large history: `python -m bench.get_latency`.

Fills a fresh database with jobs, evaluations, models and data sets (SQLite, and PostgreSQL where a server is installed:
`make postgresql`), starts two API processes over it (the other services are not needed for reading), and sends requests
to both in turn at a steady rate from this process. A request that can't be sent in time because earlier ones are still
open counts from the moment at which it should have been sent.
"""

import argparse
import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.history import fill
from tests.e2e.platform_process import free_ports
from tests.postgresql_server import PostgresqlServer, find_programs

SMALL = 1_000
PROCESSES = 2
WARM_UP_SECONDS = 3.0
START_SECONDS = 300.0
Taken = dict[str, list[float]]


def paths(jobs: int, with_events: int) -> dict[str, list[str]]:
    """Return what is asked for: of each endpoint the addresses that it is asked for at."""
    some = [random.randrange(1, jobs) for _ in range(50)]
    shown = [random.randrange(1, min(jobs, with_events)) for _ in range(50)]
    return {
        "GET /api/training/{id}": [f"/api/training/{id_}" for id_ in shown],
        "GET /api/training?limit": [f"/api/training?limit=20&after={id_}" for id_ in some],
        "… order=desc": ["/api/training?limit=20&order=desc"],
        "… status=FAILED": [f"/api/training?limit=20&status=FAILED&after={id_}" for id_ in some],
        "… status=RUNNING": ["/api/training?limit=20&status=RUNNING"],
        "… model_id": [f"/api/training?limit=20&model_id={1 + id_ % 3}&after={id_}" for id_ in some],
        "… name": [f"/api/training?limit=20&name=job%20{id_}" for id_ in some],
        "… created_after, the last hour": ["/api/training?limit=20&created_after=2025-01-02T00:00:00"],
        "GET /api/training/{id}/events?limit": [f"/api/training/{id_}/events?limit=20" for id_ in shown],
        "GET /api/evaluations?limit": [f"/api/evaluations?limit=20&after={id_}" for id_ in some],
        "GET /api/evaluations/{id}": [f"/api/evaluations/{id_}" for id_ in some],
        "GET /api/models?limit": [f"/api/models?limit=20&after={id_}" for id_ in some],
        "GET /api/models/{id}": [f"/api/models/{id_}" for id_ in some],
        "GET /api/datasets?limit": [f"/api/datasets?limit=20&after={id_}" for id_ in some],
        "GET /v1/fine_tuning/jobs": ["/v1/fine_tuning/jobs?limit=20"],
        "… metadata[team], a third have it": ["/v1/fine_tuning/jobs?limit=20&metadata[team]=a"],
        "GET /v1/files, results": [
            f"/v1/files?purpose=fine-tune-results&limit=20&after=file-results-{id_}" for id_ in some
        ],
        "GET /api/statistics": ["/api/statistics"],
        "GET /metrics": ["/metrics"],
        "GET /api/health": ["/api/health"],
    }


async def load(base_urls: list[str], kinds: dict[str, list[str]], rate: float, seconds: float) -> Taken:
    """Return the seconds that each request took, by kind."""
    taken: Taken = {kind: [] for kind in kinds}
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=50)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client:

        async def one(kind: str, url: str, due: float) -> None:
            (await client.get(url)).raise_for_status()
            taken[kind].append(time.perf_counter() - due)

        names = list(kinds)
        started = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for number in range(int(rate * seconds)):
                due = started + number / rate
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                kind = names[number % len(names)]
                base_url = base_urls[number // len(names) % len(base_urls)]
                group.create_task(one(kind, base_url + random.choice(kinds[kind]), due))
    return taken


@contextmanager
def api_processes(database_url: str, data_dir: Path) -> Iterator[list[str]]:
    """Start the API processes over one database, one after another, and yield where they are once they answer."""
    processes, base_urls = [], []
    try:
        for _ in range(PROCESSES):
            (port,) = free_ports(1)
            environment = {
                **os.environ,
                "LLM_PLATFORM_DATA_DIR": str(data_dir),
                "LLM_PLATFORM_DATABASE_URL": database_url,
                "LLM_PLATFORM_API_PORT": str(port),
                "LLM_PLATFORM_ALLOW_HUB": "false",
            }
            command = [sys.executable, "-m", "api.server"]
            processes.append(subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL))
            base_urls.append(f"http://127.0.0.1:{port}")
            wait_for(base_urls[-1])
        yield base_urls
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()


def wait_for(base_url: str) -> None:
    """Wait until an API process answers; its own failure ends the measurement after five minutes."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            httpx.get(f"{base_url}/api/health", timeout=60).raise_for_status()
        except httpx.TransportError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            return


def measure(database_url: str, data_dir: Path, kinds: dict[str, list[str]], rate: float, seconds: float) -> Taken:
    """Return what requests to two fresh API processes took."""
    with api_processes(database_url, data_dir) as base_urls:
        asyncio.run(load(base_urls, kinds, rate, WARM_UP_SECONDS))
        return asyncio.run(load(base_urls, kinds, rate, seconds))


def percentile(values: list[float], share: float) -> float:
    """Return the value below which this share of them lies, in milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(share * len(values)))]


def compare(name: str, small_url: str, large_url: str, folder: Path, arguments: argparse.Namespace) -> None:
    """Fill two databases, measure each, and print the two beside each other."""
    results = []
    for database_url, jobs in ((small_url, SMALL), (large_url, arguments.jobs)):
        started = time.monotonic()
        fill(database_url, jobs, arguments.with_events)
        print(f"{name}: {jobs} jobs after {time.monotonic() - started:.0f} s", flush=True)
        if arguments.seconds:
            kinds = paths(jobs, min(jobs, arguments.with_events))
            results.append(measure(database_url, folder, kinds, arguments.rate, arguments.seconds))
    if not results:
        return
    small, large = results
    title = f"{name}, {PROCESSES} API processes, {arguments.rate:.0f} requests/s"
    print(f"| {title} | p50 small | p50 large | p99 small | p99 large |")
    print("| --- | --- | --- | --- | --- |")
    for kind in small:
        p50, p99 = ([percentile(taken[kind], share) for taken in (small, large)] for share in (0.5, 0.99))
        print(f"| {kind} | {p50[0]:.1f} | {p50[1]:.1f} | {p99[0]:.1f} | {p99[1]:.1f} |")
    print(flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000, help="training jobs of the large history")
    parser.add_argument("--with-events", type=int, default=10_000, help="how many of them have events")
    parser.add_argument("--rate", type=float, default=40, help="requests a second, over all endpoints")
    parser.add_argument("--seconds", type=float, default=50, help="how long each is measured; 0: only fill")
    parser.add_argument("--folder", type=Path, help="where SQLite's files are kept, filled for the next time")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        small, large = (f"sqlite:///{folder / name}.db" for name in ("small", "large"))
        compare("SQLite", small, large, Path(temporary), arguments)
    programs = find_programs()
    if programs is None:
        print("PostgreSQL is not installed (`make postgresql`).")
        return
    server = PostgresqlServer(programs, free_ports(1)[0])
    try:
        for name in ("small", "large"):
            server.create_database(name)
        with tempfile.TemporaryDirectory() as temporary:
            compare("PostgreSQL", server.url("small"), server.url("large"), Path(temporary), arguments)
    finally:
        server.close()


if __name__ == "__main__":
    main()
