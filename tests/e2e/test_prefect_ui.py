"""What is clicked in Prefect's UI (suspend, resume, cancel, a run by the form) shows in the API, and the other way."""

from datetime import UTC, datetime

import httpx
import pytest

from tests.e2e.browser import WINDOW, PrefectUI, chromium, find_chromium
from tests.e2e.tiny_job import assert_off_the_device

CHROMIUM = find_chromium()
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium is installed; `make browser` installs it (Debian, as root)"
)

JOB = {"job_name": "Docstrings", "max_steps": 100_000, "max_seq_length": 64, "batch_size": 2, "lora_r": 2}
SHOWN_SECONDS = 5.0
"""How soon the API shows what Prefect has accepted: two seconds are promised, here a browser shares the two cores."""
UI_SECONDS = 10.0
"""How soon an open page of Prefect's shows what the API did."""


# Not for longer than this module: while Playwright runs, no other test could start an event loop.
@pytest.fixture(scope="module")
def browser():
    with chromium(CHROMIUM) as running:
        yield running


@pytest.fixture
def prefect_ui(browser, platform, screenshots):
    page = browser.new_page(viewport=WINDOW)
    yield PrefectUI(page, f"http://localhost:{platform.ports['prefect']}", screenshots)
    page.close()


@pytest.fixture
def running_job(platform, tiny_model):
    """A job that has done a few steps and has many before it; cancelled afterwards if the test has not."""
    job_id = platform.train(model_id=tiny_model, **JOB)
    platform.wait_until(lambda: platform.job(job_id)["step"] > 5, 120, "the first steps")
    yield platform.job(job_id)
    platform.http.post(f"/training/{job_id}/cancel")
    platform.wait_for_job(job_id, "CANCELLED", seconds=30)


def assert_shown(platform, read, flow_run_id, state_type, clicked, what):
    """Wait until `read` shows a change, and compare the time with that of the run's state in Prefect."""
    value = platform.wait_until(read, 30, f"the API to show: {what}")
    shown = datetime.now(UTC)
    # The form's run has a job, and with it a known flow run, only once the API shows it.
    states = prefect_states(platform, flow_run_id or value["flow_run_id"])
    accepted = min(at for kind, at in states if kind == state_type and at >= clicked)
    lag = (shown - accepted).total_seconds()
    print(f"{what}: {lag:.2f} s after Prefect's state, {(shown - clicked).total_seconds():.2f} s after the click")
    assert lag < SHOWN_SECONDS
    return value


def prefect_states(platform, flow_run_id):
    states = httpx.get(f"{platform.prefect_url}/flow_run_states/", params={"flow_run_id": flow_run_id}).json()
    return [(state["type"], datetime.fromisoformat(state["timestamp"])) for state in states]


def job_when(platform, job_id, condition):
    """Return a function that returns the job if the condition holds of it by now."""

    def read():
        job = platform.job(job_id)
        return job if condition(job) else None

    return read


def test_a_job_suspended_in_prefect_is_paused(platform, prefect_ui, running_job):
    job_id, run_id = running_job["id"], running_job["flow_run_id"]
    prefect_ui.open_run(run_id)
    prefect_ui.press("Suspend")
    prefect_ui.picture("suspend")
    clicked = prefect_ui.confirm("Submit")
    read = job_when(platform, job_id, lambda job: job["pausing"] or job["status"] == "PAUSED")
    assert_shown(platform, read, run_id, "PAUSED", clicked, "suspended in the UI")
    job = platform.wait_for_job(job_id, "PAUSED", seconds=30)
    assert not job["pausing"]
    assert_off_the_device(job)
    prefect_ui.wait_for_state("Suspended")
    prefect_ui.picture("paused")
    # The dialog gives a pause five minutes; the platform lets it last.
    details = httpx.get(f"{platform.prefect_url}/flow_runs/{run_id}").json()["state"]["state_details"]
    assert details["pause_timeout"] is None


def test_a_job_paused_through_the_api_is_resumed_in_prefect(platform, prefect_ui, running_job):
    job_id, run_id = running_job["id"], running_job["flow_run_id"]
    prefect_ui.open_run(run_id)
    prefect_ui.wait_for_state("Running")
    assert platform.http.post(f"/training/{job_id}/pause").json()["status"] == "PAUSED"
    answered = datetime.now(UTC)
    prefect_ui.wait_for_state("Suspended", UI_SECONDS)
    print(f"paused through the API: on the open page {(datetime.now(UTC) - answered).total_seconds():.2f} s later")
    paused = platform.job(job_id)
    prefect_ui.press("Resume")
    clicked = prefect_ui.confirm("Submit")
    read = job_when(platform, job_id, lambda job: job["status"] in ("PENDING", "RUNNING"))
    assert_shown(platform, read, run_id, "SCHEDULED", clicked, "resumed in the UI")
    platform.wait_until(lambda: platform.job(job_id)["step"] > paused["step"], 60, "the next step")
    line = f"Resumed after step {paused['step']} of"
    platform.wait_until(lambda: line in platform.job(job_id)["logs"], 10, line)
    assert platform.job(job_id)["attempt"]["number"] == 2
    prefect_ui.wait_for_state("Running")
    prefect_ui.open_run(run_id)
    prefect_ui.picture("resumed")


def test_a_job_cancelled_in_prefect_leaves_the_device(platform, prefect_ui, running_job):
    job_id, run_id = running_job["id"], running_job["flow_run_id"]
    prefect_ui.open_run(run_id)
    prefect_ui.press("Cancel")
    clicked = prefect_ui.confirm("Confirm")
    read = job_when(platform, job_id, lambda job: job["cancelling"] or job["status"] == "CANCELLED")
    assert_shown(platform, read, run_id, "CANCELLING", clicked, "cancelled in the UI")
    job = platform.wait_for_job(job_id, "CANCELLED", seconds=30)
    assert_off_the_device(job)
    prefect_ui.wait_for_state("Cancelled")
    prefect_ui.picture("cancelled")


def test_a_run_started_by_the_form_becomes_a_job(platform, prefect_ui, tiny_model):
    name = "Docstrings, from the form"
    typed = {"learning_rate": 0.002, "batch_size": 2, "max_steps": 40, "max_seq_length": 64, "lora_r": 4, "seed": 7}
    prefect_ui.open_form("finetune")
    for field, value in typed.items():
        prefect_ui.fill(field.replace("_", " ").title(), value)
    prefect_ui.fill("Model Id", tiny_model)
    prefect_ui.fill("Job Name", name)
    prefect_ui.picture_form("form")
    clicked = prefect_ui.submit_form()

    def read():
        jobs = platform.http.get("/training").json()["training_jobs"]
        return next((platform.job(job["id"]) for job in jobs if job["job_name"] == name), None)

    job = assert_shown(platform, read, None, "SCHEDULED", clicked, "started by the form")
    done = platform.wait_for_job(job["id"], "COMPLETED")
    assert done["model_id"] == tiny_model
    assert {field: done["recipe"][field] for field in typed} == typed
    assert done["step"] == typed["max_steps"]
    prefect_ui.open_run(job["flow_run_id"])
    prefect_ui.wait_for_state("Completed")
    prefect_ui.picture("completed")
