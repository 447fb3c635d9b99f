"""Prefect's REST API as the endpoints need it: submit a run by its deployment's name, read states, pause, resume."""

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import httpx

from api.errors import ServiceDown
from configs.settings import IDLE_CONNECTION_SECONDS
from registry.clock import to_naive_utc, utcnow

FINETUNE = "finetune/finetune"
EVALUATE = "evaluate/evaluate"
SUSPENDED = {"type": "PAUSED", "name": "Suspended", "state_details": {"pause_reschedule": True}}
DEPLOYMENT_SECONDS = 5.0
"""How long the id of a deployment is taken for granted: somebody may delete it in Prefect's UI."""
BUSY_PAUSES_SECONDS = (0.1, 0.3, 0.9)
REFUSALS = (400, 409, 413, 422)
"""What Prefect answers to a request that it will refuse again and again."""
ACTIVE_STATES = ["SCHEDULED", "PENDING", "RUNNING", "PAUSED", "CANCELLING"]


CLOCKS_APART = timedelta(minutes=1)
"""Moments that differ by less may be the same one by two clocks."""


class PrefectRefused(Exception):
    """Prefect has answered, and will not do what was asked; the message is for people."""


@dataclass(frozen=True, slots=True)
class FlowRun:
    """What the platform reads of a Prefect flow run."""

    id: str
    state_type: str
    state_name: str
    state_message: str | None
    state_at: datetime
    scheduled_at: datetime | None
    """When a run that is SCHEDULED is to begin."""
    parameters: dict[str, Any]
    tags: list[str]
    expected_start: datetime | None
    deployment_id: str | None
    """The deployment that it was made from, which may be gone by now."""
    called: bool
    """Whether another flow called it: no worker would run it again."""
    has_queue: bool
    """Whether it is in a work queue, where a worker finds it; not so when its work pool was deleted."""
    pause_limited: bool
    """Paused with a time limit, after which Prefect refuses to resume the run."""

    @property
    def waits_for_a_wrong_clock(self) -> bool:
        """Whether it was to begin at once, by a clock that has been set back since, or that is another machine's."""
        if self.state_type != "SCHEDULED" or self.scheduled_at is None:
            return False
        return self.state_at > utcnow() + CLOCKS_APART and self.scheduled_at < self.state_at + CLOCKS_APART

    @classmethod
    def parse(cls, body: dict[str, Any]) -> "FlowRun":
        """Read a flow run from Prefect's JSON."""
        state = body["state"]
        expected, scheduled = body.get("expected_start_time"), state["state_details"].get("scheduled_time")
        return cls(
            id=body["id"],
            state_type=state["type"],
            state_name=state["name"],
            state_message=state.get("message"),
            state_at=to_naive_utc(datetime.fromisoformat(state["timestamp"])),
            scheduled_at=to_naive_utc(datetime.fromisoformat(scheduled)) if scheduled else None,
            parameters=body.get("parameters") or {},
            tags=body.get("tags") or [],
            expected_start=to_naive_utc(datetime.fromisoformat(expected)) if expected else None,
            deployment_id=body.get("deployment_id"),
            called=body.get("deployment_id") is None,
            has_queue=body.get("work_queue_id") is not None,
            pause_limited=state["type"] == "PAUSED" and state["state_details"].get("pause_timeout") is not None,
        )


class Orchestrator:
    """A client of the Prefect server; every method raises `ServiceDown` if it does not answer."""

    def __init__(self, api_url: str, login: tuple[str, str] | None = None, *, timeout_seconds: float = 10.0) -> None:
        """`login` is a user name and a password, for a server that asks for them."""
        limits = httpx.Limits(keepalive_expiry=IDLE_CONNECTION_SECONDS)
        self._http = httpx.AsyncClient(
            base_url=api_url, auth=login, timeout=timeout_seconds, limits=limits, trust_env=False
        )
        self._deployment_ids: dict[str, tuple[str, float]] = {}
        """The id of each deployment, and when (`time.monotonic`) Prefect last said so."""

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def submit(
        self,
        deployment: str,
        name: str,
        parameters: dict[str, Any],
        tags: list[str],
        idempotency_key: str,
        *,
        paused: bool = False,
    ) -> FlowRun:
        """Create a flow run, to be run or paused, or return the one that the same key made before.

        Raises `PrefectRefused`.
        """
        deployment_id = await self.deployment_id(deployment)
        body = {
            "name": name,
            "parameters": parameters,
            "tags": tags,
            "idempotency_key": idempotency_key,
            "state": SUSPENDED if paused else {"type": "SCHEDULED"},
            "enforce_parameter_schema": False,
        }
        path = f"/deployments/{deployment_id}/create_flow_run"
        return FlowRun.parse(await self._call("POST", path, body, may_refuse=True))

    async def delete(self, flow_run_id: str) -> None:
        """Delete a flow run that nobody needs; one that is not there is no error."""
        await self._call("DELETE", f"/flow_runs/{flow_run_id}", missing_is_fine=True)

    async def flow_run(self, flow_run_id: str) -> FlowRun | None:
        """Return the flow run, or None if Prefect knows none of this id."""
        found = await self.flow_runs([flow_run_id])
        return found[0] if found else None

    async def flow_runs(self, flow_run_ids: Sequence[str]) -> list[FlowRun]:
        """Return those of the flow runs that Prefect knows (at most 200 a call)."""
        found = await self._call("POST", "/flow_runs/filter", {"flow_runs": {"id": {"any_": list(flow_run_ids)}}})
        return [FlowRun.parse(body) for body in found]

    async def active_flow_runs(self, deployments: Sequence[str]) -> dict[str, list[FlowRun]]:
        """Return the runs of each deployment that have not ended; one request for all, the first 200 by start."""
        ids = {await self.deployment_id(deployment): deployment for deployment in deployments}
        body = {
            "deployments": {"id": {"any_": list(ids)}},
            "flow_runs": {"state": {"type": {"any_": ACTIVE_STATES}}},
            "sort": "EXPECTED_START_TIME_ASC",
        }
        active: dict[str, list[FlowRun]] = {deployment: [] for deployment in deployments}
        for found in await self._call("POST", "/flow_runs/filter", body):
            active[ids[found["deployment_id"]]].append(FlowRun.parse(found))
        return active

    async def suspend(self, flow_run: FlowRun) -> bool:
        """Ask for a pause without a time limit; return whether Prefect accepted it."""
        # Prefect pauses a run that is only queued if forced to. A running one is asked without force, so that a
        # run that ends at this very moment stays ended.
        queued = flow_run.state_type in ("SCHEDULED", "PENDING")
        body = {"state": SUSPENDED, "force": queued}
        answer = await self._call("POST", f"/flow_runs/{flow_run.id}/set_state", body)
        return bool(answer["status"] == "ACCEPT")

    async def lift_pause_limit(self, flow_run_id: str) -> None:
        """Let a pause last: Prefect's UI gives it five minutes, after which the run could not be resumed."""
        run = await self.flow_run(flow_run_id)
        # Looked at again just before the forced write, which would undo a resume pressed meanwhile.
        if run is not None and run.pause_limited:
            await self._call("POST", f"/flow_runs/{flow_run_id}/set_state", {"state": SUSPENDED, "force": True})

    async def cancel(self, flow_run: FlowRun) -> bool:
        """Ask for a run's end; return whether Prefect accepted it. A run that no process works on ends at once."""
        state = {"type": "CANCELLING", "name": "Cancelling"}
        answer = await self._call("POST", f"/flow_runs/{flow_run.id}/set_state", {"state": state})
        # Prefect answers REJECT when it sets CANCELLED in place of CANCELLING, for a run without a process.
        accepted = answer["status"] == "ACCEPT" or (answer.get("state") or {}).get("type") == "CANCELLED"
        return bool(accepted)

    async def end_cancelled(self, flow_run: FlowRun) -> None:
        """Cancel a run whose worker died before it could."""
        state = {"type": "CANCELLED", "message": "Its worker died while it was being cancelled."}
        await self._call("POST", f"/flow_runs/{flow_run.id}/set_state", {"state": state, "force": True})

    async def retry(self, flow_run: FlowRun, reason: str) -> bool:
        """Schedule a run whose process died to run again, from its top; return whether Prefect accepted it."""
        now = utcnow().isoformat() + "Z"
        state = {
            "type": "SCHEDULED",
            "name": "AwaitingRetry",
            "message": reason,
            "state_details": {"scheduled_time": now},
        }
        # Forced: Prefect lets nobody leave a terminal state, nor a running one whose process it takes to be alive.
        answer = await self._call("POST", f"/flow_runs/{flow_run.id}/set_state", {"state": state, "force": True})
        return bool(answer["status"] == "ACCEPT")

    async def begin_now(self, flow_run: FlowRun) -> None:
        """Schedule a waiting run for this moment."""
        state = {
            "type": "SCHEDULED",
            "name": flow_run.state_name,
            "message": flow_run.state_message,
            "state_details": {"scheduled_time": utcnow().isoformat() + "Z"},
        }
        # Not forced: what somebody has asked of it meanwhile counts.
        await self._call("POST", f"/flow_runs/{flow_run.id}/set_state", {"state": state})

    async def give_up(self, flow_run: FlowRun, reason: str) -> None:
        """Fail a run whose process died too often."""
        state = {"type": "FAILED", "message": reason}
        await self._call("POST", f"/flow_runs/{flow_run.id}/set_state", {"state": state, "force": True})

    async def resume(self, flow_run_id: str) -> bool:
        """Schedule a paused run to go on; return whether Prefect accepted it."""
        answer = await self._call("POST", f"/flow_runs/{flow_run_id}/resume", {})
        return bool(answer["status"] == "ACCEPT")

    async def deployment_id(self, deployment: str, *, now: bool = False) -> str:
        """Return the id of the deployment `flow/name`: as it was a few seconds ago at most, or as it is `now`.

        One that is deleted is made again by the worker within seconds, and has another id then.
        """
        known, asked_at = self._deployment_ids.get(deployment, ("", -math.inf))
        if now or time.monotonic() - asked_at > DEPLOYMENT_SECONDS:
            known = (await self._call("GET", f"/deployments/name/{deployment}"))["id"]
            self._deployment_ids[deployment] = known, time.monotonic()
        return known

    async def is_stranded(self, deployment: str, flow_run: FlowRun) -> bool:
        """Return whether a run waits for a worker that will never find it: its deployment or its queue was deleted."""
        if flow_run.state_type != "SCHEDULED" or flow_run.called:
            return False
        current = await self.deployment_id(deployment)
        if flow_run.deployment_id == current and flow_run.has_queue:
            return False
        # Asked again, as what is remembered may be older than the run.
        return not flow_run.has_queue or flow_run.deployment_id != await self.deployment_id(deployment, now=True)

    async def discard(self, flow_run: FlowRun) -> None:
        """End a run that another one is about to take the place of."""
        state = {"type": "CANCELLED", "message": "Its deployment or work pool was deleted; it is submitted again."}
        await self._call("POST", f"/flow_runs/{flow_run.id}/set_state", {"state": state, "force": True})

    async def _call(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        may_refuse: bool = False,
        missing_is_fine: bool = False,
    ) -> Any:
        """Return the JSON of the answer; raises `ServiceDown`, and `PrefectRefused` where the caller `may_refuse`."""
        response = await self._send(method, path, body)
        for pause in BUSY_PAUSES_SECONDS:
            if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
                break
            # Prefect's way of saying that its database was locked; nothing was changed.
            await asyncio.sleep(pause)
            response = await self._send(method, path, body)
        if response.status_code == httpx.codes.NOT_FOUND and path.startswith("/deployments"):
            # A Prefect database made anew has new ids; and on the first start the worker applies them any moment now.
            self._deployment_ids.clear()
            raise ServiceDown("prefect", "The flows are not deployed to Prefect yet; try again in a few seconds.")
        if response.status_code == httpx.codes.NOT_FOUND and missing_is_fine:
            return None
        if may_refuse and response.status_code in REFUSALS:
            raise PrefectRefused(f"Prefect refuses it ({response.status_code}): {response.text[:300]}")
        if response.is_error:
            message = f"The Prefect server answered {response.status_code} to {method} {path}; try again soon."
            raise ServiceDown("prefect", message)
        return response.json() if response.content else None

    async def _send(self, method: str, path: str, body: dict[str, Any] | None) -> httpx.Response:
        try:
            return await self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            reason = str(error) or type(error).__name__
            raise ServiceDown("prefect", f"The Prefect server does not answer ({reason}); try again soon.") from error
