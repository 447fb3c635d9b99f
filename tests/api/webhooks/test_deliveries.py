"""Ends of jobs reach real receivers, are verified by OpenAI's SDK, and survive refusals, outages and a restart."""

import queue
import threading
from typing import Any

import openai
import pytest
from fastapi.testclient import TestClient
from openai.types.webhooks import (
    FineTuningJobCancelledWebhookEvent,
    FineTuningJobFailedWebhookEvent,
    FineTuningJobSucceededWebhookEvent,
)

from api.app import create_app
from configs.recipe import FinetuneParameters
from registry.clock import unix_seconds, utcnow
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import job_of_parameters
from tests.api.controller.running import running_controller
from tests.api.webhooks.receiver import ALL, Receiver, deliveries, settled, until, unwrapped
from tests.e2e.platform_process import free_ports

ENDS: dict[str, Any] = {
    "COMPLETED": FineTuningJobSucceededWebhookEvent,
    "FAILED": FineTuningJobFailedWebhookEvent,
    "CANCELLED": FineTuningJobCancelledWebhookEvent,
}


@pytest.fixture(scope="module")
def settings(settings):
    return settings.model_copy(
        update={"webhook_allow_internal": True, "webhook_retry_seconds": 0.01, "webhook_attempts": 100}
    )


@pytest.mark.parametrize("status", ENDS)
def test_an_end_is_told_as_the_sdk_expects_it(client, sdk, job, target, status):
    with Receiver() as receiver:
        endpoint = target(receiver.url)
        job_id = job(status)
        received = receiver.next()
        event = unwrapped(received, endpoint.signing_secret)
        delivery = settled(client, endpoint)
    ENDS[status].model_validate_json(received.body, strict=True)
    assert isinstance(event, ENDS[status])
    assert event.data.id == f"ftjob-{job_id}"
    assert event.created_at == sdk.fine_tuning.jobs.retrieve(event.data.id).finished_at
    assert (received.path, received.headers["host"]) == ("/hook?key=1", f"localhost:{receiver.port}")
    assert received.headers["content-type"] == "application/json"
    assert (delivery["status"], delivery["attempts"], delivery["status_code"]) == ("delivered", 1, 200)
    assert (delivery["webhook_id"], delivery["event_id"]) == (received.headers["webhook-id"], event.id)
    with pytest.raises(openai.InvalidWebhookSignatureError):
        unwrapped(received, "whsec_AAAA")


def test_a_job_that_ends_twice_is_told_twice_and_an_end_that_is_seen_twice_once(client, database, job, target):
    with Receiver() as receiver:
        endpoint = target(receiver.url)
        job_id = job("FAILED")
        for status in ("FAILED", "PENDING", "RUNNING", "COMPLETED", "COMPLETED"):
            with database.transaction() as session:
                jobs = TrainingJobRepository(session)
                jobs.record_state(jobs.require(job_id), status, utcnow())
        events = [unwrapped(receiver.next(), endpoint.signing_secret) for _ in range(2)]
        until(lambda: all(one["status"] == "delivered" for one in deliveries(client, endpoint)))
    assert [event.type for event in events] == ["fine_tuning.job.failed", "fine_tuning.job.succeeded"]
    assert {event.data.id for event in events} == {f"ftjob-{job_id}"}
    assert len({event.id for event in events}) == len(deliveries(client, endpoint)) == 2


def test_what_a_change_of_state_undoes_is_not_told(client, database, job, target):
    with Receiver() as receiver:
        endpoint = target(receiver.url)

        def end_and_break():
            with database.transaction() as session:
                jobs = TrainingJobRepository(session)
                jobs.record_state(jobs.require(job_id), "COMPLETED", utcnow())
                raise RuntimeError("halfway")

        job_id = job("RUNNING")
        with pytest.raises(RuntimeError, match="halfway"):
            end_and_break()
        assert deliveries(client, endpoint) == []


def test_each_target_is_told_what_it_asked_for(client, job, target):
    with Receiver() as everything, Receiver() as failures:
        target(everything.url)
        of_failures = target(failures.url, ["fine_tuning.job.failed"])
        job("COMPLETED")
        job("FAILED")
        succeeded, failed = (everything.next() for _ in range(2))
        also_failed = failures.next()
        assert settled(client, of_failures)["event_type"] == "fine_tuning.job.failed"
    assert b"succeeded" in succeeded.body
    assert failed.body == also_failed.body
    assert failed.headers["webhook-id"] != also_failed.headers["webhook-id"]


def test_a_refused_message_comes_again_the_same_and_a_redirect_is_no_delivery(client, job, target):
    with Receiver(500, 302, 307, 429, 200) as receiver:
        endpoint = target(receiver.url)
        job("COMPLETED")
        received = [receiver.next() for _ in range(5)]
        delivery = settled(client, endpoint)
        assert receiver.received.empty()
    assert {one.path for one in received} == {"/hook?key=1"}
    assert len({one.headers["webhook-id"] for one in received}) == len({one.body for one in received}) == 1
    for one in received:
        unwrapped(one, endpoint.signing_secret)
    assert (delivery["status"], delivery["attempts"], delivery["error"]) == ("delivered", 5, None)


def test_a_target_that_is_away_is_tried_until_it_is_back(client, job, target):
    (port,) = free_ports(1)
    endpoint = target(f"http://localhost:{port}/")
    job("FAILED")
    until(lambda: deliveries(client, endpoint)[0]["attempts"] >= 2)
    waiting = deliveries(client, endpoint)[0]
    assert (waiting["status"], waiting["status_code"]) == ("waiting", None)
    assert "connect" in waiting["error"].lower()
    with Receiver(port=port) as receiver:
        received = receiver.next()
        unwrapped(received, endpoint.signing_secret)
        assert settled(client, endpoint)["webhook_id"] == received.headers["webhook-id"] == waiting["webhook_id"]


def test_a_target_that_is_gone_is_left_alone(client, job, target):
    with Receiver(410) as receiver:
        endpoint = target(receiver.url)
        job("COMPLETED")
        receiver.next()
        delivery = settled(client, endpoint)
    assert (delivery["status"], delivery["attempts"], delivery["error"]) == ("given_up", 1, "it answered 410")


def test_a_target_that_is_slow_holds_up_no_other(job, target):
    told = threading.Event()
    with Receiver(before_answering=told.wait) as slow, Receiver() as quick:
        target(slow.url)
        target(quick.url)
        job("COMPLETED")
        try:
            slow.next()
            quick.next()
        finally:
            told.set()


def test_a_new_secret_replaces_the_old_one_at_once_or_after_a_day(sdk, client, job, target):
    with Receiver() as receiver:
        first = target(receiver.url).signing_secret
        (endpoint,) = sdk.webhooks.list().data
        second = sdk.webhooks.rotate_secret(endpoint.id, keep_old_secret_active_for_24_hours=True).signing_secret
        job("COMPLETED")
        received = receiver.next()
        assert unwrapped(received, first) == unwrapped(received, second)
        third = sdk.webhooks.rotate_secret(endpoint.id).signing_secret
        job("COMPLETED")
        received = receiver.next()
        unwrapped(received, third)
        with pytest.raises(openai.InvalidWebhookSignatureError):
            unwrapped(received, second)
    assert len({first, second, third}) == 3


def test_what_waits_is_sent_after_a_restart_and_after_its_job_is_deleted(settings, tmp_path):
    """The platform of this test is one of its own, over a database that outlives it."""
    own = settings.model_copy(update={"data_dir": tmp_path})
    (port,) = free_ports(1)
    body = {"name": "away", "url": f"http://localhost:{port}/", "event_types": ALL}
    app = create_app(own)
    with TestClient(app, base_url="http://localhost") as before, running_controller(own):
        made = before.post("/v1/webhook_endpoints", json=body).json()
        ended_at = utcnow()
        with app.state.platform.database.transaction() as session:
            jobs = TrainingJobRepository(session)
            one = jobs.add(job_of_parameters(FinetuneParameters(model_id=1)))
            jobs.record_state(one, "CANCELLED", ended_at)
        path = f"/v1/webhook_endpoints/{made['id']}/deliveries"
        until(lambda: before.get(path).json()["data"][0]["attempts"])
        assert before.delete(f"/api/training/{one.id}").status_code == 200
    with Receiver(port=port) as receiver:
        with pytest.raises(queue.Empty):
            receiver.received.get_nowait()
        with TestClient(create_app(own), base_url="http://localhost") as after, running_controller(own):
            received = receiver.next()
            event = unwrapped(received, made["signing_secret"])
            until(lambda: after.get(path).json()["data"][0]["status"] == "delivered")
            (delivery,) = after.get(path).json()["data"]
    assert (event.data.id, event.created_at) == (f"ftjob-{one.id}", unix_seconds(ended_at))
    assert delivery["webhook_id"] == received.headers["webhook-id"]
    assert delivery["attempts"] >= 2
