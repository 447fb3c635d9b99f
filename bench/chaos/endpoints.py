"""The endpoints at which jobs are submitted, paused, resumed, cancelled and restarted: the API's and Prefect's."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx

from bench.chaos.ledger import Job, Ledger
from bench.chaos.platform import ChaosPlatform

DONE, REFUSED, NO_ANSWER = "done", "refused", "no answer"
REFUSALS = (httpx.codes.CONFLICT, httpx.codes.SERVICE_UNAVAILABLE, httpx.codes.INSUFFICIENT_STORAGE)
"""What may be answered to a job that was paused meanwhile, while a service is away, and while the disk is full."""
CLIENTS = ("api", "prefect")
UI_PAUSE_SECONDS = 300
"""The time limit that Prefect's UI gives to a pause."""


class Endpoints:
    """Every method asks once and returns `done`, `refused` or `no answer`; an answer that neither may give is kept."""

    def __init__(self, platform: ChaosPlatform, ledger: Ledger) -> None:
        self._platform = platform
        self._ledger = ledger
        self._prefect = httpx.Client(base_url=platform.prefect_url, timeout=20)

    def close(self) -> None:
        """Close the connections."""
        self._prefect.close()

    def submit(self, job: Job, body: dict[str, Any]) -> str:
        """Submit a job; sets its id when it was accepted, and checks that the same key never makes two."""
        outcome, answer = self._api("POST", "/training", json=body, headers={"Idempotency-Key": job.key})
        if outcome == DONE:
            if job.id is not None and answer["id"] != job.id:
                self._ledger.violation(f"the key {job.key} made job {job.id}, and then job {answer['id']}")
            job.id = answer["id"]
        return outcome

    def jobs(self) -> dict[int, dict[str, Any]] | None:
        """Return all jobs as the API lists them, by id; None while it does not answer."""
        outcome, answer = self._api("GET", "/training")
        return {one["id"]: one for one in answer["training_jobs"]} if outcome == DONE else None

    def job(self, job: Job) -> dict[str, Any] | None:
        """Return a job with its details; None while the API does not answer."""
        outcome, answer = self._api("GET", f"/training/{job.id}")
        if outcome != DONE:
            return None
        job.flow_run_id = answer["flow_run_id"]
        return dict(answer)

    def pause(self, job: Job, endpoint: str) -> str:
        """Ask for a pause as a client of the API does, or as Prefect's UI does."""
        with self._ledger.lock:
            job.pause_open = True
            job.pauses_in_flight += 1
        try:
            if endpoint == "api":
                return self._api("POST", f"/training/{job.id}/pause")[0]
            # By the platform's clock: a browser on its machine has the same.
            ahead = self._platform.clock.wrong_by if self._platform.clock is not None else 0
            limit = (datetime.now(UTC) + timedelta(seconds=UI_PAUSE_SECONDS + ahead)).isoformat()
            details = {"pause_reschedule": True, "pause_timeout": limit}
            state = {"type": "PAUSED", "name": "Suspended", "state_details": details}
            return self._ask_prefect(job, "set_state", {"state": state, "force": False})
        finally:
            with self._ledger.lock:
                job.pauses_in_flight -= 1

    def resume(self, job: Job, endpoint: str) -> str:
        """Ask for a resume as a client of the API does, or as Prefect's UI does."""
        if endpoint == "api":
            outcome = self._api("POST", f"/training/{job.id}/resume")[0]
        else:
            outcome = self._ask_prefect(job, "resume", {})
        with self._ledger.lock:
            if outcome == DONE and job.pauses_in_flight <= 1:
                job.pause_open = False
        return outcome

    def cancel(self, job: Job) -> str:
        """Cancel a job."""
        job.cancels += 1
        return self._api("POST", f"/training/{job.id}/cancel")[0]

    def restart(self, job: Job) -> str:
        """Restart a cancelled or failed job."""
        outcome = self._api("POST", f"/training/{job.id}/restart")[0]
        job.restarts += outcome == DONE
        return outcome

    def prefect_state(self, job: Job) -> str | None:
        """Return the type of the state that Prefect has for a job's run right now; None while it does not answer."""
        try:
            response = self._prefect.get(f"/flow_runs/{job.flow_run_id}")
        except httpx.TransportError:
            return None
        return None if response.is_error else str(response.json()["state"]["type"])

    def _api(self, method: str, path: str, **request: Any) -> tuple[str, Any]:
        try:
            response = self._platform.http.request(method, path, **request)
            if response.is_success:
                return DONE, response.json()
        except (httpx.TransportError, json.JSONDecodeError):
            return NO_ANSWER, None
        if response.status_code not in REFUSALS:
            self._ledger.violation(f"{method} {path} answered {response.status_code}: {response.text[:300]}")
        return REFUSED, None

    def _ask_prefect(self, job: Job, action: str, body: dict[str, Any]) -> str:
        try:
            response = self._prefect.post(f"/flow_runs/{job.flow_run_id}/{action}", json=body)
            if response.is_success:
                return DONE if response.json()["status"] == "ACCEPT" else REFUSED
        except (httpx.TransportError, json.JSONDecodeError):
            return NO_ANSWER
        return REFUSED
