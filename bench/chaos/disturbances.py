"""The disturbances: services killed, everything killed or stopped and started, jobs paused and cancelled."""

import random
import subprocess
import time
from concurrent.futures import Future, ThreadPoolExecutor

import psutil

from bench.chaos.endpoints import CLIENTS, DONE, Endpoints
from bench.chaos.faults import Faults
from bench.chaos.ledger import Job, Ledger
from bench.chaos.observer import trainers
from bench.chaos.platform import ChaosPlatform

WEIGHTS = {
    "kill trainer": 4,
    "kill worker": 2,
    "kill forkserver": 2,
    "kill prefect": 2,
    "kill mlflow": 2,
    "kill api": 2,
    "kill controller": 2,
    "kill engine": 1,
    "kill supervisord": 1,
    "kill up": 1,
    "power cut": 1,
    "ctrl-c": 1,
    "pause api, resume api": 2,
    "pause api, resume prefect": 2,
    "pause prefect, resume api": 2,
    "pause prefect, resume prefect": 1,
    "pause, resume 0.5 s later": 2,
    "cancel, restart": 2,
}
"""How often each disturbance comes in a round."""
FAULT_WEIGHT = 2
"""The same for faults (bench/chaos/faults.py)."""
WHOLE = ("kill supervisord", "kill up", "power cut", "ctrl-c")
"""After these the platform has to be started again."""
STARTS = 3
GIVEN_UP = "could not be kept running"
"""What `make run` says before it ends because of a service that dies again and again, which is correct."""
END_SECONDS = 30.0


class Disturbances:
    """Chooses one disturbance after the other, each as often as its weight says, in random order."""

    def __init__(self, platform: ChaosPlatform, endpoints: Endpoints, ledger: Ledger, rng: random.Random) -> None:
        self._platform, self._endpoints, self._ledger, self._rng = platform, endpoints, ledger, rng
        self._round: list[str] = []
        # Endpoints are asked in threads, so that a kill can come while one waits for its answer; so is the start, which
        # is disturbed too.
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="endpoint")
        self._starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="start")
        self._starting: Future[None] | None = None
        self._output_begins = 0
        self._faults = Faults(platform, ledger)
        self._weights = WEIGHTS | dict.fromkeys(self._faults.kinds, FAULT_WEIGHT)

    def settle(self) -> None:
        """Wait for the endpoints that have not answered yet; no disturbance may come after this."""
        self._faults.settle()
        self._threads.shutdown()

    def close(self) -> None:
        """Wait for a start that is under way."""
        self._starter.shutdown()

    def next(self) -> None:
        """Do the next disturbance that is possible right now; the others keep their turn."""
        if not self._round:
            self._round = [name for name, weight in self._weights.items() for _ in range(weight)]
            self._rng.shuffle(self._round)
        for place in range(len(self._round) - 1, -1, -1):
            name = self._round[place]
            if self._do(name):
                del self._round[place]
                return

    def revive(self) -> None:
        """Start the platform if it has ended by itself, which it may only do when a service can't be kept running."""
        if self._starting is not None:
            if not self._starting.done():
                return
            self._starting.result()
            self._starting = None
        if self._platform.ended:
            self._judge_end()
            self._start()

    def _do(self, name: str) -> bool:
        """Do a disturbance; return False, having done nothing, if it is not possible right now."""
        if name in WHOLE and self._starting is not None:
            return False
        if name in self._faults.kinds:
            return self._starting is None and self._faults.begin(name)
        if name.startswith("kill "):
            return self._kill(name)
        if name == "power cut":
            self._platform.kill_all()
        elif name == "ctrl-c":
            self.press_ctrl_c()
        else:
            return self._at_endpoint(name)
        self._ledger.count(name, DONE)
        self._start()
        return True

    def _kill(self, name: str) -> bool:
        part = name.removeprefix("kill ")
        try:
            process = self._trainer() if part == "trainer" else self._platform.part(part)
            if process is None:
                return False
            process.kill()
        except psutil.NoSuchProcess:
            return False
        self._ledger.count(name, DONE, f"(process {process.pid})")
        if name in WHOLE:
            if not self._platform.wait_ended(END_SECONDS):
                self._ledger.violation(f"`make run` still runs {END_SECONDS:.0f} s after: {name}")
                self._platform.kill_all()
            self._start()
        return True

    def _trainer(self) -> psutil.Process | None:
        found = sorted(trainers(self._platform.data_dir))
        return psutil.Process(self._rng.choice(found)[1]) if found else None

    def press_ctrl_c(self) -> None:
        """Stop the platform in order; it is a violation if that leaves a process behind."""
        try:
            self._platform.stop()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            left = [(process.pid, " ".join(process.cmdline())[:80]) for process in self._platform.processes()]
            self._ledger.violation(f"Ctrl-C left processes behind: {left} ({str(error).splitlines()[0]})")
            self._platform.kill_all()

    def _start(self) -> None:
        """Begin to start the platform; `revive` sees when it is ready."""
        self._starting = self._starter.submit(self._start_now)

    def _start_now(self) -> None:
        for _ in range(STARTS):
            self._output_begins = len(self._platform.output)
            try:
                self._ledger.say(f"ready again after {self._platform.start():.1f} s")
            except AssertionError as error:
                self._ledger.say(f"the start failed: {str(error).splitlines()[0]}")
                self._judge_end()
                self._platform.kill_all()
            else:
                return
        raise RuntimeError("The platform can't be started any more.")

    def _judge_end(self) -> None:
        said = "".join(self._platform.output[self._output_begins :])
        if GIVEN_UP in said:
            self._ledger.note("the platform stopped because a part could not be kept running")
        else:
            self._ledger.violation(f"`make run` ended by itself or was never ready:\n{said[-2000:]}")

    def _at_endpoint(self, name: str) -> bool:
        jobs = [job for job in self._ledger.accepted() if job.status in ("PENDING", "RUNNING") and job.flow_run_id]
        if not jobs or self._starting is not None:
            return False
        running = [job for job in jobs if job.status == "RUNNING"]
        # Mostly the running one: the others wait in the queue, where less can go wrong.
        job = self._rng.choice(running if running and self._rng.random() < 0.8 else jobs)
        delay, endpoints = self._rng.uniform(0.2, 5.0), (self._rng.choice(CLIENTS), self._rng.choice(CLIENTS))
        if name == "cancel, restart":
            self._threads.submit(self._cancel, name, job, delay)
        elif name == "pause, resume 0.5 s later":
            self._threads.submit(self._pause, name, job, endpoints[0], endpoints[1], 0.0)
            self._threads.submit(self._resume_soon, job, endpoints[1])
        else:
            pause, resume = (part.split()[1] for part in name.split(", "))
            self._threads.submit(self._pause, name, job, pause, resume, delay)
        return True

    def _pause(self, name: str, job: Job, endpoint: str, resume_endpoint: str, delay: float) -> None:
        job.resume_endpoint, job.hold_until = resume_endpoint, float("inf")
        outcome = self._endpoints.pause(job, endpoint)
        job.hold_until = time.monotonic() + delay
        self._ledger.count(name, outcome, f"(job {job.id})")

    def _resume_soon(self, job: Job, endpoint: str) -> None:
        time.sleep(0.5)
        outcome = self._endpoints.resume(job, endpoint)
        self._ledger.count("resume 0.5 s after the pause", outcome, f"(job {job.id}, {endpoint})")

    def _cancel(self, name: str, job: Job, delay: float) -> None:
        job.hold_until = float("inf")
        outcome = self._endpoints.cancel(job)
        job.hold_until = time.monotonic() + delay
        self._ledger.count(name, outcome, f"(job {job.id})")
