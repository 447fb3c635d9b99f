"""The CPU time that a platform takes that nobody uses, for each of its processes.

`python -m bench.idle_cost` (after `make model`) starts the platform on free ports over an empty data folder, leaves it
alone, and counts the CPU seconds of every process, which other work on the machine does not change as it would a
load or a percentage. Before that it can load a model (`--generate`), so that the engine has one to keep.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.e2e.platform_process import ROOT, PlatformProcess

SETTLE_SECONDS = 30.0
"""After the start: the worker's warm process still imports its libraries, Prefect its first schedules."""


@dataclass(frozen=True)
class Usage:
    """One process over the time that was measured."""

    name: str
    user_seconds: float
    system_seconds: float
    switches: int
    """How often it was woken, or gave up the core."""

    @property
    def seconds(self) -> float:
        return self.user_seconds + self.system_seconds


def snapshot(platform: PlatformProcess) -> dict[psutil.Process, tuple[float, float, int]]:
    """Return user and system CPU seconds and context switches of every process so far."""
    found = {}
    for process in platform.processes():
        times, switches = process.cpu_times(), process.num_ctx_switches()
        found[process] = (times.user, times.system, switches.voluntary + switches.involuntary)
    return found


def measure(platform: PlatformProcess, seconds: float) -> list[Usage]:
    """Return what each process took in the next `seconds`, the most costly first."""
    before = snapshot(platform)
    time.sleep(seconds)
    after = snapshot(platform)
    rows = []
    for process, (user, system, switches) in after.items():
        earlier = before.get(process, (0.0, 0.0, 0))
        rows.append(Usage(_name(process), user - earlier[0], system - earlier[1], switches - earlier[2]))
    return sorted(rows, key=lambda row: -row.seconds)


def table(rows: list[Usage], seconds: float) -> str:
    """Return the rows and their sum as percent of one core."""
    total = sum(row.seconds for row in rows)
    lines = [f"{'process':44} {'user s':>7} {'system s':>8} {'% of a core':>12} {'switches/s':>11}"]
    for row in rows:
        share = 100 * row.seconds / seconds
        lines.append(
            f"{row.name:44} {row.user_seconds:7.2f} {row.system_seconds:8.2f} {share:12.2f} "
            f"{row.switches / seconds:11.1f}"
        )
    lines.append(f"{'all, ' + format(seconds, '.0f') + ' s':44} {'':7} {'':8} {100 * total / seconds:12.2f}")
    return "\n".join(lines)


def _name(process: psutil.Process) -> str:
    command = " ".join(process.cmdline()[1:]) or process.name()
    for part in ("api.server", "api.controller", "api.engine_server", "flows.prefect_server", "mlflow", "flows.worker"):
        if f"-m {part}" in command or f"-m uvicorn {part}" in command:
            return part
    for part, name in (("resource_tracker", "worker: resource tracker"), ("forkserver", "worker: warm process")):
        if part in command:
            return name
    return "supervisord" if "supervisor_process" in command else command[-44:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0, help="how long CPU time is counted")
    parser.add_argument(
        "--settle", type=float, default=SETTLE_SECONDS, help="how long the platform is left alone before"
    )
    parser.add_argument("--generate", action="store_true", help="generate once before, so that a model is loaded")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        platform = PlatformProcess(Path(folder), ROOT / "data" / "models")
        try:
            print(f"ready after {platform.start():.1f} s, {psutil.cpu_count()} cores")
            if arguments.generate:
                platform.http.post("/models/1/generate", json={"prompt": "Hi", "max_new_tokens": 8}).raise_for_status()
            time.sleep(arguments.settle)
            print(table(measure(platform, arguments.seconds), arguments.seconds))
        finally:
            platform.close()


if __name__ == "__main__":
    main()
