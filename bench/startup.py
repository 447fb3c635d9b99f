"""The running platform: `make run` to ready, POST to first optimizer step, memory of each part.

`python -m bench.startup` (after `make model`) starts the platform on free ports over an empty data folder: nothing is
warm but the operating system's file cache. The first step is timed from the second job on: the first one makes the
built-in data set and its tokens.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import psutil

from tests.e2e.platform_process import ROOT, PlatformProcess, prompt_lines

POLL_SECONDS = 0.02


def first_step_seconds(platform: PlatformProcess) -> float:
    """Return the seconds from POST until the job's record shows its first optimizer step."""
    started = time.monotonic()
    job_id = platform.train(model_id=1, max_steps=2, batch_size=1, max_seq_length=64)
    while platform.job(job_id)["step"] < 1:
        time.sleep(POLL_SECONDS)
    taken = time.monotonic() - started
    platform.wait_for_job(job_id, "COMPLETED")
    return taken


def memory(platform: PlatformProcess) -> list[tuple[str, float, float]]:
    """Return (command, RSS, PSS) in MiB of every process; PSS shares out what forks have in common."""
    rows = []
    for process in platform.processes():
        full = process.memory_full_info()
        command = " ".join(process.cmdline()[1:6])[:60] or process.name()
        rows.append((command, full.rss / 2**20, full.pss / 2**20))
    return sorted(rows, key=lambda row: -row[2])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=5)
    arguments = parser.parse_args()
    ready = []
    for number in range(arguments.starts):
        with tempfile.TemporaryDirectory() as folder:
            platform = PlatformProcess(Path(folder), ROOT / "data" / "models")
            ready.append(platform.start())
            print(f"start {number + 1}: ready after {ready[-1]:.1f} s")
            try:
                if number == arguments.starts - 1:
                    print(prompt_lines(platform.output))
                    first_step_seconds(platform)
                    steps = [first_step_seconds(platform) for _ in range(arguments.jobs)]
                    print("POST to first step:", ", ".join(f"{seconds:.2f}" for seconds in steps), "s;", end=" ")
                    print(f"median {statistics.median(steps):.2f} s")
                    platform.http.post("/models/1/generate", json={"prompt": "Hi", "max_new_tokens": 2})
                    print(f"{'process':60} {'RSS MiB':>9} {'PSS MiB':>9}")
                    rows = memory(platform)
                    for command, rss, pss in rows:
                        print(f"{command:60} {rss:9.0f} {pss:9.0f}")
                    print(f"{'all':60} {sum(r[1] for r in rows):9.0f} {sum(r[2] for r in rows):9.0f}")
            finally:
                platform.close()
    print(f"ready: median {statistics.median(ready):.1f} s of {arguments.starts} starts, {psutil.cpu_count()} cores")


if __name__ == "__main__":
    main()
