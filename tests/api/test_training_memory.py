"""A job that can't fit in memory is refused with what would fit, and what is said to fit is accepted."""

import os
from typing import Any

import pytest

from registry.attempts import attempt_memory, process_started
from registry.repositories.training_jobs import TrainingJobRepository
from tests.api.test_jobs_without_prefect import create
from tests.api.test_recovery import a_job

GB = 0.35
LARGE = {"batch_size": 256, "max_seq_length": 256}


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(update={"training_memory_gb": GB, "compute_dtype": "float32", "device": "cpu"})


def test_it_is_a_422_that_says_what_is_needed_what_there_is_and_what_fits(client, tiny_model):
    response = create(client, tiny_model["id"], **LARGE)
    assert response.status_code == 422
    answer = response.json()
    assert answer["code"] == "too_little_memory"
    assert answer["details"]["needed_gb"] > answer["details"]["available_gb"] == GB
    rows = answer["details"]["fits"]["batch_size"]
    assert (
        f"GB of memory with 256 rows at once of up to 256 tokens, and there are {GB:.2f} GB: batch_size {rows} "
        in (answer["error"])
    )
    assert create(client, tiny_model["id"], **LARGE | {"batch_size": rows}).status_code == 201
    assert create(client, tiny_model["id"], **LARGE | {"batch_size": rows + 1}).status_code == 422


def test_fewer_rows_at_once_are_taken_where_that_is_asked_for(client, tiny_model):
    created = create(client, tiny_model["id"], **LARGE, micro_batch="auto")
    assert created.status_code == 201
    job = client.get(f"/api/training/{created.json()['id']}").json()
    assert (job["batch_size"], job["recipe"]["micro_batch"], job["memory_plan"]) == (256, "auto", None)


def test_a_length_beyond_the_models_context_does_not_count(client, tiny_model):
    rows = create(client, tiny_model["id"], **LARGE).json()["details"]["fits"]["batch_size"]
    assert create(client, tiny_model["id"], batch_size=rows, max_seq_length=1_048_576).status_code == 201


def test_a_word_that_is_not_known_is_refused(client, tiny_model):
    response = create(client, tiny_model["id"], micro_batch="automatic")
    assert response.status_code == 422
    assert "micro_batch is 'automatic', but" in response.json()["error"]


def test_the_newest_plan_is_shown_with_the_job(client, tiny_model):
    job_id = create(client, tiny_model["id"], micro_batch="auto").json()["id"]
    plan: dict[str, Any] = {
        "gradient_accumulation": 1,
        "recompute": False,
        "sharded": False,
        "background_saves": True,
        "estimated_gb": 0.3,
        "available_gb": GB,
        "reason": None,
    }
    plans = [plan | {"micro_batch": 8}, plan | {"micro_batch": 4, "gradient_accumulation": 2, "reason": "it was full"}]
    with client.app.state.platform.database.transaction() as session:
        TrainingJobRepository(session).add_events(job_id, [("memory", plan) for plan in plans])
    assert client.get(f"/api/training/{job_id}").json()["memory_plan"] == plans[1]
    events = client.get(f"/api/training/{job_id}/events").json()["events"]
    assert [event["data"] for event in events if event["kind"] == "memory"] == plans


def test_a_running_trainers_memory_counts_as_what_it_will_give_back():
    mine = {"attempt_pid": os.getpid(), "attempt_process_started": process_started(os.getpid())}
    assert attempt_memory(a_job(**mine)) > 2**20
    assert attempt_memory(a_job(**mine, attempt_host="renamed")) > 2**20
    assert attempt_memory(a_job(**{**mine, "attempt_machine": "elsewhere"})) == 0
    assert attempt_memory(a_job(attempt_pid=2**22 + 1, attempt_process_started=1)) == 0
