"""Keeps the jobs going: submits new ones, resumes what is paused, restarts what was cancelled or given up."""

import random
import threading
import time
from typing import Any

from bench.chaos.endpoints import CLIENTS, DONE, Endpoints
from bench.chaos.ledger import Job, Ledger

ROUND_SECONDS = 0.5
UNFINISHED_JOBS = 3
DISK_FULL = "is full ("
"""What a job's `error` says when its disk had no space left: it is not tried again before somebody says so."""
GIVEN_UP = "times in a row from the same place"
"""What a job's `error` says when it died too often at one place (api/controller/reconciler.py)."""


class Caretaker(threading.Thread):
    """Follows the jobs by what the API shows; whatever it can't do now, it does in a later round."""

    def __init__(
        self, endpoints: Endpoints, ledger: Ledger, requests: dict[str, dict[str, Any]], rng: random.Random
    ) -> None:
        super().__init__(name="caretaker", daemon=True)
        self._endpoints, self._ledger = endpoints, ledger
        self._requests, self._rng = requests, rng
        self._ended = threading.Event()
        self.submitting = True
        """Whether new jobs are made when fewer than three are unfinished."""

    def run(self) -> None:
        """Go round until `end`."""
        while not self._ended.wait(ROUND_SECONDS):
            self._submit()
            self._follow()

    def end(self) -> None:
        """Stop going round."""
        self._ended.set()
        self.join()

    def _submit(self) -> None:
        if self.submitting and len(self._ledger.unfinished()) < UNFINISHED_JOBS:
            number = len(self._ledger.jobs) + 1
            job = Job(key=f"chaos-{number}", kind=self._rng.choice(sorted(self._requests)))
            with self._ledger.lock:
                self._ledger.jobs.append(job)
        for job in self._ledger.unfinished():
            if job.id is None:
                body = {"job_name": f"chaos {job.kind}"} | self._requests[job.kind]
                if self._endpoints.submit(job, body) != DONE:
                    self._ledger.note("submissions repeated with their key, unanswered or refused")
                elif self._rng.random() < 0.3:
                    self._endpoints.submit(job, body)
                    self._ledger.note("submissions repeated with their key, accepted before")

    def _follow(self) -> None:
        listed = self._endpoints.jobs()
        if listed is None:
            return
        for job in self._ledger.unfinished():
            if job.id is None:
                continue
            if job.id not in listed:
                self._ledger.violation(f"job {job.id} is lost: the API does not list it")
                continue
            if job.status != listed[job.id]["status"]:
                job.status, job.judged = listed[job.id]["status"], False
            if job.flow_run_id is None:
                self._endpoints.job(job)
            if not job.judged:
                self._judge(job)
            if time.monotonic() >= job.hold_until:
                self._help(job)

    def _judge(self, job: Job) -> None:
        """Look at a job that has just come to a status: it may be CANCELLED or FAILED for a known reason only."""
        if job.status == "COMPLETED":
            self._ledger.say(f"job {job.id} completed")
        elif job.status == "CANCELLED" and not job.cancels:
            self._ledger.violation(f"job {job.id} is CANCELLED, and nobody asked for it")
        elif job.status == "FAILED":
            detail = self._endpoints.job(job)
            if detail is None or detail["status"] != "FAILED":
                return
            job.failures += 1
            self._ledger.say(f"job {job.id} FAILED: {detail['error']}")
            if not any(reason in (detail["error"] or "") for reason in (GIVEN_UP, DISK_FULL)):
                self._ledger.violation(f"job {job.id} is FAILED: {detail['error']}")
        job.judged = True

    def _help(self, job: Job) -> None:
        if job.status == "PAUSED":
            self._check_pause(job)
            self._endpoints.resume(job, job.resume_endpoint)
            # The next try, should this one be refused, goes through any endpoint.
            job.resume_endpoint = self._rng.choice(CLIENTS)
        elif job.status == "CANCELLED" or (job.status == "FAILED" and job.judged):
            self._endpoints.restart(job)

    def _check_pause(self, job: Job) -> None:
        """A job whose resume was accepted may not be paused again by itself."""
        if job.pause_open or self._endpoints.prefect_state(job) != "PAUSED" or job.pause_open:
            return
        self._ledger.violation(f"job {job.id} is PAUSED in Prefect after a resume was accepted, and nobody asked again")
        job.pause_open = True
