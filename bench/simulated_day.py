"""Days of use, compressed: `python -m bench.simulated_day --minutes 60 --days 24`.

A real platform with a tiny model is used as fast as it can be: jobs of a few steps, some with their evaluations,
uploads, generations, and deletions of what was made. The wall clock of its processes runs so fast that all these days
pass: what Prefect keeps for a week goes as well, from the eighth day on. Retention makes a pass every few rounds
beside its nightly ones, its own times are zero. Memory, open files and threads of every service, the size of every
database and what each kind of data takes of the disk are printed over time, with the growth per 1,000 jobs: a line
fitted to the last two thirds, and its standard error. Flat means: what that line grew by is not beyond the slack, or
not beyond noise (twice the standard error).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

from bench.chaos.platform import COMMANDS
from bench.wall_clock import WallClock
from tests.e2e.platform_process import ROOT, PlatformProcess
from tests.tiny_models import save_tiny_llama

JOB = {"max_steps": 4, "max_seq_length": 64, "batch_size": 2, "lora_r": 2, "eval_every": 2}
ROWS = "".join(
    json.dumps({"prompt": f"question {n}", "completion": f"a long enough answer {n}"}) + "\n" for n in range(60)
)
KEEP = ("CHECKPOINTS", "STEP_EVENTS", "IDEMPOTENCY", "AUDIT", "DELIVERIES", "FLOW_RUNS", "DELETED", "ORPHANS", "CACHES")
JOBS_PER_ROUND = 16
"""They wait in the queue together, so that the workers always have one; the first is evaluated with its base."""
JOBS_PER_UPLOAD = 4
ROUNDS_BETWEEN_PASSES = 3
ASK_SECONDS = 0.5
"""How often a job is asked for: each time costs the API as much as it has left for other things."""
DAY_SECONDS = 24 * 3600
LEAST_POINTS = 4
PASSES_AT_MOST = 600
LEFT = 10
"""Jobs that are not deleted yet."""
EVALUATIONS = ("output_evaluation_id", "base_evaluation_id")
SLACK = {
    "prefect_database disk MB": 30.0,
    "_database disk MB": 2.0,
    "logs disk MB": 40.0,
    "disk MB": 5.0,
    "MB": 5.0,
    "files": 5.0,
    "threads": 3.0,
}
"""How much more something may be at the end, by the end of its name. Prefect's database has a week of events, which are
more or fewer as the machine is quick or slow; logs grow up to where they are rotated."""
JOBS = "jobs"

Sample = dict[str, float]


class Growth(NamedTuple):
    """A line fitted to samples over the number of jobs."""

    per_job: float
    error: float
    """Its standard error."""
    jobs: float
    """Over how many of them."""


class Day:
    """A platform in use, and what it takes over time."""

    def __init__(self, platform: PlatformProcess, model: int, clock: WallClock, seconds: float, days: float) -> None:
        """The clock of the platform is to run through so many days in so many seconds."""
        self.platform, self.model = platform, model
        self.clock, self.days, self._seconds, self._began = clock, days, seconds, time.monotonic()
        self._begun: list[int] = []
        self._finished: list[int] = []
        self.samples: list[Sample] = []
        self.done: dict[str, int] = {}

    @property
    def part_gone(self) -> float:
        """How much of the time has passed."""
        return (time.monotonic() - self._began) / self._seconds

    def call(self, method: str, path: str, what: str, **content: Any) -> Any:
        self.clock.set(round(self.part_gone * self.days * DAY_SECONDS))
        answer = self.platform.http.request(method, path, **content)
        if answer.is_error:
            raise AssertionError(f"{method} {path}: {answer.status_code} {answer.text}")
        self.done[what] = self.done.get(what, 0) + 1
        return answer.json()

    def round(self) -> None:
        """Upload and begin jobs; those of the round before: generate with what they made, and delete what is older."""
        datasets = [self._upload() for _ in range(JOBS_PER_ROUND // JOBS_PER_UPLOAD)]
        begun, numbers = self._begun, range(JOBS_PER_ROUND)
        self._begun = [self._begin(datasets[number // JOBS_PER_UPLOAD], evaluated=number == 0) for number in numbers]
        for job in begun:
            self._wait_for(job)
            fresh = self.platform.job(job)["output_model_id"]
            for number in range(4):
                asked = {"prompt": f"question {number}", "max_new_tokens": 16, "seed": number}
                self.call("POST", f"/models/{fresh if number % 2 else self.model}/generate", "generations", json=asked)
        self._finished += begun
        while len(self._finished) > LEFT:
            for dataset in {self._delete(self._finished.pop(0)) for _ in range(JOBS_PER_UPLOAD)}:
                self.call("DELETE", f"/datasets/{dataset}", "deletions")

    def _wait_for(self, job: int) -> None:
        while (status := self.platform.job(job)["status"]) != "COMPLETED":
            if status in ("FAILED", "CANCELLED"):
                raise AssertionError(f"job {job} is {status}")
            time.sleep(ASK_SECONDS)

    def _upload(self) -> int:
        its_own = json.dumps(
            {"prompt": f"question at {time.monotonic_ns()}", "completion": "no other data set has this row"}
        )
        files = {"file": (f"{time.monotonic_ns()}.jsonl", ROWS + its_own)}
        return int(self.call("POST", "/datasets", "uploads", files=files)["id"])

    def _begin(self, dataset: int, *, evaluated: bool) -> int:
        body = {"model_id": self.model, "job_name": "a day", "dataset_id": dataset, "auto_evaluate": evaluated, **JOB}
        key = {"Idempotency-Key": str(time.monotonic_ns())}
        return int(self.call("POST", "/training", "jobs", json=body, headers=key)["id"])

    def _ended(self, evaluation: int) -> bool:
        return self.platform.http.get(f"/evaluations/{evaluation}").json()["status"] in ("COMPLETED", "FAILED")

    def _delete(self, job: int) -> int:
        """Delete a job and what it made; returns its data set."""
        record = self.platform.job(job)
        for name in EVALUATIONS:
            if record[name] is not None:
                self.platform.wait_until(lambda name=name: self._ended(record[name]), 300, f"{name} to end")
                self.call("DELETE", f"/evaluations/{record[name]}", "deletions")
        self.call("DELETE", f"/models/{record['output_model_id']}", "deletions")
        self.call("DELETE", f"/training/{job}", "deletions")
        return int(record["recipe"]["dataset_id"])

    def collect(self) -> None:
        command = [str(Path(sys.executable).with_name("llm-platform")), "gc", "--json"]
        for _ in range(PASSES_AT_MOST):
            done = subprocess.run(command, env=self.platform.environment, capture_output=True, text=True, check=False)
            if "Another process removes things" not in done.stderr:
                break
            time.sleep(ASK_SECONDS)  # the nightly pass, which is slow on a busy machine
        if done.returncode != 0:
            raise AssertionError(f"gc ended with {done.returncode}: {done.stderr}")
        self.done["passes"] = self.done.get("passes", 0) + 1
        self.done["removed"] = self.done.get("removed", 0) + json.loads(done.stdout)["count"]

    def measure(self) -> None:
        sample: Sample = {JOBS: float(self.done["jobs"])}
        for name, processes in self._services().items():
            with suppress(psutil.NoSuchProcess):
                sample[f"{name} MB"] = sum(process.memory_full_info().uss for process in processes) / 1e6
                sample[f"{name} files"] = sum(process.num_fds() for process in processes)
                sample[f"{name} threads"] = sum(process.num_threads() for process in processes)
        root = self.platform.base_url.removesuffix("/api")
        for line in self.platform.http.get(f"{root}/metrics").text.splitlines():
            if line.startswith("llm_platform_disk_used_bytes{"):
                kind, size = line.rsplit(" ", 1)
                sample[f"{kind.split(chr(34))[1]} disk MB"] = float(size) / 1e6
        self.samples.append(sample)

    def _services(self) -> dict[str, list[psutil.Process]]:
        """Return each service's process, and with it those that serve for it, as the API and MLflow have."""
        found: dict[str, list[psutil.Process]] = {}
        for process in self.platform.processes():
            with suppress(psutil.Error):
                command = process.cmdline()
                serving = [child for child in process.children() if "spawn_main" in " ".join(child.cmdline())]
                for name, module in COMMANDS.items():
                    if module in command:
                        found.setdefault(name, []).extend([process, *serving])
        return found


def growth(samples: list[Sample], name: str) -> Growth:
    """Fit a line to the last two thirds."""
    points = [(sample[JOBS], sample[name]) for sample in samples[len(samples) // 3 :] if name in sample]
    if len(points) < LEAST_POINTS:
        return Growth(0.0, float("inf"), 0.0)
    jobs, values = np.array(points).T
    (per_job, _), covariance = np.polyfit(jobs, values, 1, cov=True)
    return Growth(float(per_job), float(covariance[0, 0]) ** 0.5, float(np.ptp(jobs)))


def is_flat(grown: Growth, name: str) -> bool:
    if grown.jobs == 0:
        return False  # too few samples to fit a line to: nothing was shown
    slack = next(slack for end, slack in SLACK.items() if name.endswith(end))
    return grown.per_job * grown.jobs <= slack or grown.per_job <= 2 * grown.error


def report(day: Day, say: Callable[[str], None]) -> bool:
    names = sorted({name for sample in day.samples for name in sample} - {JOBS})
    columns = [day.samples[round(share * (len(day.samples) - 1))] for share in (0, 0.25, 0.5, 0.75, 1)]
    titles = ("start", "25%", "50%", "75%", "end", "per 1,000 jobs", "flat")
    say(f"{'':28}" + "".join(f"{title:>10}" for title in titles[:-2]) + f"{titles[-2]:>20}{titles[-1]:>6}")
    every = True
    for name in names:
        grown = growth(day.samples, name)
        flat = is_flat(grown, name)
        every &= flat
        cells = "".join(f"{column.get(name, float('nan')):10.1f}" for column in columns)
        fitted = f"{1000 * grown.per_job:+.2f} ± {1000 * grown.error:.2f}"
        say(f"{name:28}{cells}{fitted:>20}{'yes' if flat else 'NO':>6}")
    say(f"{day.done}")
    return every


@contextmanager
def more_workers(platform: PlatformProcess, count: int) -> Iterator[None]:
    """Serve the work pools with so many further processes, as machines with several devices do."""
    command = [sys.executable, "-m", "flows.worker"]
    (first,) = (one for one in platform.processes() if "flows.worker" in one.cmdline())
    environment = first.environ()
    with (platform.data_dir / "logs" / "more-workers.log").open("w") as log:
        started = [subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log) for _ in range(count)]
        try:
            yield
        finally:
            for process in started:
                process.terminate()
            for process in started:
                process.wait(60)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--days", type=float, default=24)
    parser.add_argument("--workers", type=int, default=2, help="how many jobs run at a time")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        save_tiny_llama(models / "tiny-llama")
        (models / "HuggingFaceTB").symlink_to(ROOT / "data" / "models" / "HuggingFaceTB")
        platform = PlatformProcess(Path(folder) / "data", models)
        platform.environment |= {f"LLM_PLATFORM_KEEP_{name}_DAYS": "0" for name in KEEP}
        clock = WallClock(Path(folder))
        platform.environment |= clock.environment
        # Prefect measures its pauses by the clock that is left alone: an hour of these days.
        hour = 60 * options.minutes / (24 * options.days)
        platform.environment["PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS"] = str(max(5.0, hour))
        platform.environment["PATH"] = f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}"
        platform.start()
        try:
            model = platform.http.post("/models", json={"name": "Tiny", "base_model": "tiny-llama"}).json()["id"]
            day, rounds = Day(platform, model, clock, 60 * options.minutes, options.days), 0
            with more_workers(platform, options.workers - 1):
                while day.part_gone < 1:
                    day.round()
                    rounds += 1
                    if rounds % ROUNDS_BETWEEN_PASSES == 0:
                        day.collect()
                        day.measure()
                        said = {name: round(value, 2) for name, value in day.samples[-1].items()}
                        print(f"{options.days * day.part_gone:.1f} days: {said}", flush=True)
                if not day.samples:
                    day.collect()
                    day.measure()
            flat = report(day, print)
        finally:
            platform.close()
    print("flat" if flat else "NOT FLAT, or too few samples to tell")
    sys.exit(not flat)


if __name__ == "__main__":
    main()
