"""The outbox of webhooks: written with a job's end, read one message a target at a time."""

from datetime import timedelta

from configs.recipe import FinetuneParameters
from registry.clock import utcnow
from registry.repositories.training_jobs import TrainingJobRepository
from registry.repositories.webhooks import WebhookRepository
from registry.run_states import TERMINAL
from registry.submissions import job_of_parameters
from registry.tables import Webhook


def add_webhook(database, *statuses) -> int:
    with database.transaction() as session:
        webhook = Webhook(name="mine", url="https://public.test/", statuses=list(statuses), secret="whsec_AAAA")
        return WebhookRepository(session).add(webhook).id


def end_job(database, status) -> int:
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        job = jobs.add(job_of_parameters(FinetuneParameters(model_id=1)))
        jobs.record_state(job, status, utcnow())
        return job.id


def due(database, later=timedelta(0)):
    with database.reading() as session:
        return [(webhook.id, delivery.job_id) for delivery, webhook in WebhookRepository(session).due(utcnow() + later)]


def attempt(database, webhook_id, error, *, is_last=False) -> None:
    """Send the oldest message that is due for a target; the next attempt would be in an hour."""
    with database.transaction() as session:
        webhooks = WebhookRepository(session)
        (delivery,) = [delivery for delivery, webhook in webhooks.due(utcnow()) if webhook.id == webhook_id]
        assert webhooks.begin_attempt(delivery.id, 0, utcnow() + timedelta(hours=1))
        webhooks.end_attempt(delivery.id, None, error, is_last=is_last)


def test_every_target_has_its_oldest_message_due_until_it_is_sent(database):
    everything, failures = add_webhook(database, *TERMINAL), add_webhook(database, "FAILED")
    jobs = [end_job(database, status) for status in ("COMPLETED", "FAILED", "FAILED", "RUNNING")]
    assert due(database) == [(everything, jobs[0]), (failures, jobs[1])]
    attempt(database, everything, None)
    attempt(database, failures, "it answered 500")
    assert due(database) == [(everything, jobs[1]), (failures, jobs[2])]
    attempt(database, failures, "it answered 410", is_last=True)
    assert due(database) == [(everything, jobs[1])]
    assert due(database, later=timedelta(hours=2)) == [(everything, jobs[1]), (failures, jobs[1])]


def test_a_message_whose_sender_dies_is_due_again_after_the_pause(database):
    webhook_id = add_webhook(database, *TERMINAL)
    job_id = end_job(database, "COMPLETED")
    with database.transaction() as session:
        webhooks = WebhookRepository(session)
        ((delivery, _),) = webhooks.due(utcnow())
        assert webhooks.begin_attempt(delivery.id, 0, utcnow() + timedelta(hours=1))
    with database.transaction() as session:
        # Another sender, which has seen it before that, does not send it too.
        assert not WebhookRepository(session).begin_attempt(delivery.id, 0, utcnow() + timedelta(hours=1))
    assert due(database) == []
    assert due(database, later=timedelta(hours=2)) == [(webhook_id, job_id)]


def test_a_target_goes_with_its_messages_and_one_made_later_is_told_nothing_old(database):
    first = add_webhook(database, *TERMINAL)
    job_id = end_job(database, "CANCELLED")
    second = add_webhook(database, *TERMINAL)
    assert due(database) == [(first, job_id)]
    with database.transaction() as session:
        webhooks = WebhookRepository(session)
        (waiting,) = webhooks.newest_deliveries(first, 9, None)
        webhooks.remove(webhooks.get(first))
    assert due(database) == []
    with database.transaction() as session:
        webhooks = WebhookRepository(session)
        assert not webhooks.begin_attempt(waiting.id, 0, utcnow())
        # One was on its way meanwhile: how it went is of interest to nobody.
        webhooks.end_attempt(waiting.id, 200, None, is_last=False)
    with database.reading() as session:
        assert [webhook.id for webhook in WebhookRepository(session).newest(9, None)] == [second]
