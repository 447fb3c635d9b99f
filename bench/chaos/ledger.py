"""What a chaos run knows and counts: the jobs it submitted, what it did to them, and what went wrong."""

import threading
import time
from collections import Counter
from dataclasses import dataclass


@dataclass
class Job:
    """One submitted job, and what was asked of it."""

    key: str
    """Its Idempotency-Key."""
    kind: str
    id: int | None = None
    """None until a submission was answered."""
    flow_run_id: str | None = None
    status: str = "PENDING"
    judged: bool = False
    """Whether the caretaker has looked at what brought it to its status."""
    cancels: int = 0
    failures: int = 0
    """Times it was FAILED after several deaths at one place."""
    restarts: int = 0
    pause_open: bool = False
    """A pause was asked for, and no resume has been accepted since: being PAUSED is right."""
    pauses_in_flight: int = 0
    hold_until: float = 0.0
    """Moment (monotonic) before which it is not resumed or restarted by the caretaker."""
    resume_endpoint: str = "api"


class Ledger:
    """The jobs, the counts of what was done, and the violations; safe to use from several threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.jobs: list[Job] = []
        self.counts: Counter[tuple[str, str]] = Counter()
        self.notes: Counter[str] = Counter()
        self.violations: list[str] = []
        self._started = time.monotonic()

    def say(self, line: str) -> None:
        """Print a line with the seconds since the start."""
        print(f"{time.monotonic() - self._started:7.1f} {line}", flush=True)

    def count(self, what: str, outcome: str, details: str = "") -> None:
        """Count a disturbance as `done`, `refused` or `no answer`, and print it."""
        with self.lock:
            self.counts[what, outcome] += 1
        self.say(f"{what}: {outcome} {details}".rstrip())

    def note(self, what: str) -> None:
        """Count something that is allowed and worth a line in the report."""
        with self.lock:
            self.notes[what] += 1

    def violation(self, text: str) -> None:
        """Keep and print something that must not happen."""
        with self.lock:
            self.violations.append(text)
        self.say(f"VIOLATION {text}")

    def accepted(self) -> list[Job]:
        """Return the jobs that the platform has accepted."""
        with self.lock:
            return [job for job in self.jobs if job.id is not None]

    def unfinished(self) -> list[Job]:
        """Return the jobs that are not known to be COMPLETED, with those whose submission is still unanswered."""
        with self.lock:
            return [job for job in self.jobs if job.status != "COMPLETED"]
