"""Kills and restarts random parts of a running platform at random, and checks that every job ends as if nothing was.

`python -m bench.chaos --minutes N [--seed S]`, on Linux, after `make model`. First each kind of job runs undisturbed.
Then for N minutes three jobs are kept unfinished while parts are killed, the whole is stopped or killed and started,
and jobs are paused, resumed, cancelled and restarted through the API and Prefect. Then everything goes on to its
end. No job may be lost, none run twice at once, and every number and every adapter must equal the undisturbed one.

The seed fixes which disturbances come in which order; when they hit is up to the machine. Exits with 1 if anything
was violated, and keeps the data folder then.
"""

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from mlflow.exceptions import MlflowException
from transformers.utils.logging import disable_progress_bar

from bench.chaos.caretaker import Caretaker
from bench.chaos.checks import check_job, check_leftovers, check_numbers, count_crashes
from bench.chaos.disturbances import Disturbances
from bench.chaos.endpoints import DONE, NO_ANSWER, REFUSED, Endpoints
from bench.chaos.kinds import Outcome, job_kinds, read_outcome
from bench.chaos.ledger import Ledger
from bench.chaos.observer import Observer
from bench.chaos.platform import ChaosPlatform, ports_to_keep
from tests.e2e.platform_process import ROOT
from tests.postgresql_server import PostgresqlServer, find_programs
from tests.tiny_models import save_tiny_gpt2, save_tiny_llama

LEAST_PAUSE_SECONDS, MEAN_PAUSE_SECONDS, MOST_PAUSE_SECONDS = 2.0, 7.0, 15.0
FINISH_SECONDS = 900.0
"""How long the jobs that are unfinished after the disturbances may take to their end."""


def make_platform(folder: Path, postgresql: PostgresqlServer | None) -> ChaosPlatform:
    """Return a platform that is not started, with the tiny models in its models folder."""
    models, scratch = folder / "models", folder / "tmp"
    for made in (models, scratch):
        made.mkdir()
    disable_progress_bar()
    save_tiny_llama(models / "tiny-llama")
    save_tiny_gpt2(models / "tiny-gpt2")
    (models / "HuggingFaceTB").symlink_to(ROOT / "data" / "models" / "HuggingFaceTB")
    return ChaosPlatform(folder / "data", models, scratch, postgresql)


def make_postgresql() -> PostgresqlServer:
    """Return a running PostgreSQL with the platform's three databases; without a server installed the run ends."""
    programs = find_programs()
    if programs is None:
        sys.exit("There is no PostgreSQL server on this machine: `make postgresql` installs Debian's.")
    server = PostgresqlServer(programs, ports_to_keep(1)[0])
    for name in ("platform", "mlflow", "prefect"):
        server.create_database(name)
    return server


def add_models(platform: ChaosPlatform, kinds: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Add the kinds' base models to the platform; return the kinds' requests with the models' ids."""
    ids = {}
    for name in sorted({kind["base_model"] for kind in kinds.values()}):
        answer = platform.http.post("/models", json={"name": name, "base_model": name})
        ids[name] = answer.raise_for_status().json()["id"]
    return {
        name: {key: value for key, value in kind.items() if key != "base_model"} | {"model_id": ids[kind["base_model"]]}
        for name, kind in kinds.items()
    }


def run_undisturbed(
    platform: ChaosPlatform, requests: dict[str, dict[str, Any]], ledger: Ledger
) -> tuple[dict[str, Outcome], list[int]]:
    """Run each kind once to its end; return what each left behind, and the jobs' ids."""
    references, ids = {}, []
    for name, request in requests.items():
        started = time.monotonic()
        job_id = platform.train(**{"job_name": f"undisturbed {name}"} | request)
        job = platform.wait_for_job(job_id, "COMPLETED")
        references[name] = read_outcome(platform, job["mlflow_run_id"])
        ids.append(job_id)
        ledger.say(f"undisturbed {name}: {job['step']} steps, {time.monotonic() - started:.1f} s")
    return references, ids


def disturb(disturbances: Disturbances, rng: random.Random, seconds: float) -> None:
    """Disturb the platform at random moments, for so many seconds."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pause = LEAST_PAUSE_SECONDS + rng.expovariate(1 / (MEAN_PAUSE_SECONDS - LEAST_PAUSE_SECONDS))
        time.sleep(min(pause, MOST_PAUSE_SECONDS))
        disturbances.revive()
        disturbances.next()


def finish(disturbances: Disturbances, caretaker: Caretaker, ledger: Ledger) -> None:
    """Let every job go on to its end, undisturbed."""
    caretaker.submitting = False
    disturbances.settle()
    ledger.say(f"no more disturbances; {len(ledger.unfinished())} jobs are unfinished")
    deadline = time.monotonic() + FINISH_SECONDS
    while ledger.unfinished() and time.monotonic() < deadline:
        disturbances.revive()
        time.sleep(0.5)
    caretaker.end()
    disturbances.close()
    for job in ledger.unfinished():
        ledger.violation(f"job {job.id} ({job.key}) is {job.status} {FINISH_SECONDS:.0f} s after the last disturbance")


def check(platform: ChaosPlatform, ledger: Ledger, references: dict[str, Outcome], reference_ids: list[int]) -> None:
    """Check every job, and the lists of all."""
    ledger.say(f"checking {len(ledger.accepted())} jobs")
    for job in ledger.accepted():
        try:
            found = check_job(platform, job, references[job.kind])
        except (httpx.HTTPError, MlflowException, LookupError, OSError) as error:
            found = [f"can't be read: {error!r}"]
        for wrong in found:
            ledger.violation(f"job {job.id} ({job.kind}) {wrong}")
    for wrong in check_numbers(platform, reference_ids + [job.id for job in ledger.accepted() if job.id is not None]):
        ledger.violation(wrong)


def report(ledger: Ledger, observer: Observer, attempts: int, died: int) -> None:
    """Print what was done, what became of the jobs, and what went wrong."""
    print(f"\n{'disturbance':34}{DONE:>6}{REFUSED:>9}{NO_ANSWER:>11}")
    for name in sorted({name for name, _ in ledger.counts}):
        done, refused, lost = (ledger.counts[name, outcome] for outcome in (DONE, REFUSED, NO_ANSWER))
        print(f"{name:34}{done:6}{refused:9}{lost:11}")
    jobs = ledger.accepted()
    completed = sum(job.status == "COMPLETED" for job in jobs)
    print(f"\njobs: {len(jobs)} submitted, {completed} COMPLETED; {attempts} attempts, {died} died and were recovered")
    print(f"given up after deaths at one place, then restarted: {sum(job.failures for job in jobs)}")
    print(f"restarts of cancelled or failed jobs: {sum(job.restarts for job in jobs)}")
    for what, count in ledger.notes.items():
        print(f"{what}: {count}")
    print(f"looks at the trainers: {observer.samples}, {observer.busy_samples} with a job on the device")
    print(f"violations: {len(ledger.violations)}")
    for text in ledger.violations:
        print(f"  - {text}")


def run(arguments: argparse.Namespace, folder: Path, ledger: Ledger) -> None:
    """Go through the phases; whatever happens, no process is left."""
    rng = random.Random(arguments.seed)
    postgresql = make_postgresql() if arguments.postgresql else None
    platform = make_platform(folder, postgresql)
    observer = Observer(platform.data_dir)
    try:
        ledger.say(f"ready after {platform.start():.1f} s; data in {platform.data_dir}")
        requests = add_models(platform, job_kinds(arguments.steps))
        references, reference_ids = run_undisturbed(platform, requests, ledger)
        endpoints = Endpoints(platform, ledger)
        disturbances = Disturbances(platform, endpoints, ledger, random.Random(rng.random()))
        caretaker = Caretaker(endpoints, ledger, requests, random.Random(rng.random()))
        observer.start()
        caretaker.start()
        disturb(disturbances, rng, 60 * arguments.minutes)
        finish(disturbances, caretaker, ledger)
        check(platform, ledger, references, reference_ids)
        attempts, died = count_crashes(platform, ledger)
        endpoints.close()
        disturbances.press_ctrl_c()
        observer.end()
        for wrong in [*observer.violations(), *check_leftovers(platform)]:
            ledger.violation(wrong)
        report(ledger, observer, attempts, died)
    finally:
        platform.kill_all()
        platform.http.close()
        if not ledger.violations:
            platform.release()
        if postgresql is not None:
            postgresql.close()


def main() -> None:
    """Run the chaos and exit with 1 if anything was violated."""
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long to disturb")
    parser.add_argument("--postgresql", action="store_true", help="keep all records on a PostgreSQL of its own")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--steps", type=int, default=900, help="steps of the longest kind of job")
    arguments = parser.parse_args()
    # However this is ended, the platform is ended first.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    ledger = Ledger()
    ledger.say(f"seed {arguments.seed}")
    # Resolved: the platform's processes are known by this very path.
    folder = Path(tempfile.mkdtemp(prefix="chaos-")).resolve()
    try:
        run(arguments, folder, ledger)
    except BaseException:
        print(f"interrupted; the data folder is kept: {folder}")
        raise
    if ledger.violations:
        print(f"the data folder is kept: {folder}")
        sys.exit(1)
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
