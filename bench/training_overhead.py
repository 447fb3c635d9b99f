"""What checkpoints, tracking and orchestration cost training: the platform against the bare loop, step for step.

`python -m bench.training_overhead` trains the packaged model on the same rows by the same recipe in three ways, one
after the other in each round: the loop alone in a process; the same beside the idle platform; as a job of the platform.
All have the platform's environment, and their losses must be equal. The time between the third step's end and the
last's counts, whatever happens in it. CPU time, unlike time, hardly depends on what else runs on the machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path

import psutil
from mlflow import MlflowClient

from api.launcher.environment import platform_environment
from bench.bare_loop import StepListener
from configs.recipe import TrainingRecipe
from configs.settings import Settings, get_settings
from tasks.training.observer import StepRecord
from tests.e2e.platform_process import ROOT, PlatformProcess

SKIPPED = 3
RECIPE = {"batch_size": 4, "max_seq_length": 256}


@dataclass
class Timing:
    """A training: of each step its end (seconds of the clock), its loss, its tokens where known."""

    ends: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    cpu: float = 0.0
    """CPU seconds of the training process between the third step's end and the last's."""
    others_cpu: dict[str, float] = field(default_factory=dict)
    """The same of each other process of the platform, by its command."""
    saves: int = 0

    @property
    def seconds(self) -> float:
        return self.ends[-1] - self.ends[SKIPPED - 1]

    @property
    def steps(self) -> list[float]:
        return [after - before for before, after in pairwise(self.ends)][SKIPPED - 1 :]


class Stopwatch(Timing, StepListener):
    """The bare loop's observer."""

    def on_step(self, record: StepRecord) -> None:
        self.ends.append(time.time())
        self.losses.append(record.loss)
        self.tokens.append(record.tokens)
        if record.step in (SKIPPED, record.total_steps):
            self.cpu = time.process_time() - self.cpu


def train_bare(steps: int) -> Timing:
    """Train in this process: what `tasks.prepare` and `tasks.train` do, and nothing else."""
    from bench.bare_loop import train
    from registry.database import Database
    from registry.repositories.models import ModelRepository
    from tasks.models.sources import ModelSource
    from tasks.training.adapter import attach_lora

    settings = get_settings()
    recipe = TrainingRecipe.model_validate({**RECIPE, "max_steps": steps})
    database = Database(settings.platform_database_url)
    with database.reading() as session:
        model = ModelRepository(session).get(1)
    assert model is not None
    source = ModelSource(settings, model)
    data = source.prepare_training(database, recipe).prepared
    database.close()
    stopwatch = Stopwatch()
    model_to_train = attach_lora(source.load_base(), recipe)
    train(model_to_train, data.train, recipe, stopwatch, pad_token_id=source.pad_token_id)
    return stopwatch


def bare(platform: PlatformProcess, steps: int) -> Timing:
    """Run `train_bare` in a process of its own, with the environment of the platform's trainer."""
    settings = Settings(data_dir=platform.data_dir, local_models_dir=ROOT / "data" / "models", allow_hub=False)
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(
            [sys.executable, "-m", "bench.training_overhead", "--steps", str(steps), "--bare-into", file.name],
            env=platform_environment(settings, os.environ),
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return Timing(**json.loads(Path(file.name).read_text()))


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def command(process: psutil.Process) -> str:
    return " ".join(process.cmdline()[1:5])[:60] or process.name()


def job(platform: PlatformProcess, steps: int) -> Timing:
    """Train as a job; it is cancelled after its last step, before the held-out loss."""
    job_id = platform.train(model_id=1, max_steps=steps, **RECIPE)
    trace = platform.data_dir / "jobs" / str(job_id) / "trace.jsonl"

    def reached(step: int) -> bool:
        # Not from the API: every question to it would take time from the training.
        return trace.exists() and trace.read_bytes().count(b"\n") >= step

    platform.wait_until(lambda: reached(SKIPPED), 600, "the first steps")
    before = {process: cpu_seconds(process) for process in platform.processes()}
    platform.wait_until(lambda: reached(steps), 3600, "the last step")
    cpu = {process: cpu_seconds(process) - seconds for process, seconds in before.items()}
    trainer = psutil.Process(platform.job(job_id)["attempt"]["pid"])
    others = {command(process): seconds for process, seconds in cpu.items() if process != trainer and seconds > 0}
    platform.http.post(f"/training/{job_id}/cancel").raise_for_status()
    run_id = platform.job(job_id)["mlflow_run_id"]
    points = sorted((one.step, one) for one in MlflowClient(platform.mlflow_url).get_metric_history(run_id, "loss"))
    assert [step for step, _ in points] == list(range(1, steps + 1))
    events = platform.http.get(f"/training/{job_id}/events").json()["events"]
    return Timing(
        ends=[point.timestamp / 1000 for _, point in points],
        losses=[point.value for _, point in points],
        cpu=cpu[trainer],
        others_cpu=others,
        saves=sum(event["kind"] == "checkpoint" for event in events),
    )


def measure_round(platform: PlatformProcess, steps: int) -> dict[str, Timing]:
    timings = {"bare": bare(platform, steps)}
    platform.start()
    try:
        timings["bare beside idle platform"] = bare(platform, steps)
        timings["job of the platform"] = job(platform, steps)
    finally:
        platform.stop()
    for timing in timings.values():
        timing.tokens = timings["bare"].tokens
        assert timing.losses == timings["bare"].losses, "not the same training"
    return timings


def report(rounds: list[dict[str, Timing]]) -> None:
    """Print each training, then what each way loses against the bare loop of its round."""
    print(f"{'':26} {'tokens/s':>9} {'step p50':>9} {'step max':>9} {'CPU s':>8} {'others':>8} {'saves':>6}")
    for number, timings in enumerate(rounds):
        for way, timing in timings.items():
            speed = sum(timing.tokens[SKIPPED:]) / timing.seconds
            p50, worst = statistics.median(timing.steps), max(timing.steps)
            numbers = f"{speed:9.1f} {p50:9.3f} {worst:9.3f} {timing.cpu:8.1f} {sum(timing.others_cpu.values()):8.1f}"
            print(f"{way:22} ({number + 1}) {numbers} {timing.saves:6}")
    cores = psutil.cpu_count() or 1
    for way in list(rounds[0])[1:]:
        pairs = [(timings["bare"], timings[way]) for timings in rounds]
        lost = [1 - plain.seconds / timing.seconds for plain, timing in pairs]
        # Each step against the same step of the bare loop: a burst of other work moves few of them.
        typical = [1 - one / two for plain, timing in pairs for one, two in zip(plain.steps, timing.steps, strict=True)]
        print(f"{way}: throughput lost, by round {', '.join(f'{share:.1%}' for share in lost)};", end=" ")
        print(f"median {statistics.median(lost):.1%} (target 3%); of a typical step {statistics.median(typical):.1%}")
    pairs = [(timings["bare"], timings["job of the platform"]) for timings in rounds]
    trainer = statistics.median(timing.cpu / plain.cpu - 1 for plain, timing in pairs)
    others = statistics.median(sum(timing.others_cpu.values()) / timing.seconds / cores for _, timing in pairs)
    print(f"a job's process takes {trainer:.1%} more CPU time than the bare loop;", end=" ")
    print(f"the platform's other processes take {others:.1%} of the {cores} cores; in the last round:")
    last = pairs[-1][1]
    for what, seconds in sorted(last.others_cpu.items(), key=lambda item: -item[1]):
        print(f"  {what:60} {seconds / last.seconds / cores:6.1%}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--bare-into", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.bare_into:
        arguments.bare_into.write_text(json.dumps(asdict(train_bare(arguments.steps))))
        return
    with tempfile.TemporaryDirectory() as folder:
        platform = PlatformProcess(Path(folder), ROOT / "data" / "models")
        # The tests save every two seconds.
        del platform.environment["LLM_PLATFORM_CHECKPOINT_INTERVAL_SECONDS"]
        try:
            # The first start makes the databases, the first training the data set and its tokens.
            platform.start()
            bare(platform, SKIPPED + 1)
            platform.stop()
            rounds = [measure_round(platform, arguments.steps) for _ in range(arguments.rounds)]
        finally:
            platform.close()
    print(f"{arguments.rounds} rounds of {arguments.steps} steps, the first {SKIPPED} not counted;", end=" ")
    print(f"load of the machine (1 min) {os.getloadavg()[0]:.1f}")
    report(rounds)


if __name__ == "__main__":
    main()
