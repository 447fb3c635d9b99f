"""Flow runs that ended long ago, with their logs, over Prefect's REST API."""

from collections.abc import Iterator
from datetime import datetime

import httpx

from registry.repositories.retention import RetentionRepository
from tasks.retention.rule import Context, Found

ENDED = ["COMPLETED", "FAILED", "CANCELLED", "CRASHED"]
RUNS_PER_PAGE = 200
TIMEOUT_SECONDS = 30.0


def flow_runs(context: Context, before: datetime) -> Iterator[Found]:
    """Yield ended flow runs, but for those of jobs that have not ended or can be restarted.

    Raises `httpx.HTTPError` if Prefect does not answer.
    """
    with context.database.reading() as session:
        kept = RetentionRepository(session).flow_runs_to_keep()
    # One client for all: each one reads the machine's certificates, which leaves 0.5 MB in the controller's memory.
    with _client(context) as http:
        for run in _ended_runs(http, before):
            if run["id"] not in kept:
                what = f"flow run {run['name']} ({run['id']})"
                yield Found(what, 0, lambda run_id=run["id"]: _remove(context, http, run_id))  # type: ignore[misc]


def _ended_runs(http: httpx.Client, before: datetime) -> list[dict[str, str]]:
    """Return all of them: pages by offset would slip while runs are deleted."""
    found: list[dict[str, str]] = []
    wanted = {"state": {"type": {"any_": ENDED}}, "end_time": {"before_": f"{before.isoformat()}Z"}}
    while True:
        page = {"flow_runs": wanted, "sort": "ID_DESC", "limit": RUNS_PER_PAGE, "offset": len(found)}
        runs = http.post("/flow_runs/filter", json=page).raise_for_status().json()
        found += ({"id": run["id"], "name": run["name"]} for run in runs)
        if len(runs) < RUNS_PER_PAGE:
            return found


def _remove(context: Context, http: httpx.Client, run_id: str) -> bool:
    with context.database.reading() as session:
        if run_id in RetentionRepository(session).flow_runs_to_keep():
            return False  # it has been restarted meanwhile
    response = http.delete(f"/flow_runs/{run_id}")
    if response.status_code == httpx.codes.NOT_FOUND:
        return False
    response.raise_for_status()
    return True


def _client(context: Context) -> httpx.Client:
    settings = context.settings
    return httpx.Client(
        base_url=settings.prefect_api_url, auth=settings.services_login, timeout=TIMEOUT_SECONDS, trust_env=False
    )
