"""Rows that have grown old, on both databases: what goes, and what stays beside it."""

from datetime import timedelta

import pytest
from sqlalchemy import func, select

from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.clock import utcnow
from registry.repositories import retention as retention_repository
from registry.repositories.audit import AuditRepository
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.idempotency import IdempotencyRepository
from registry.repositories.responses import ConversationRepository, ResponseRepository
from registry.repositories.retention import KEPT_PASSES, RetentionRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.repositories.webhooks import WebhookRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import (
    AuditEntry,
    Conversation,
    IdempotencyKey,
    StoredItem,
    StoredResponse,
    StoredResponseEvents,
    TrainingJob,
    Webhook,
    WebhookDelivery,
)

NOW = utcnow()
OLD, CUTOFF = NOW - timedelta(days=60), NOW - timedelta(days=30)


def add_job(session, status="COMPLETED", ended=NOW) -> TrainingJob:
    jobs = TrainingJobRepository(session)
    job = jobs.add(job_of_parameters(FinetuneParameters(model_id=1, job_name="a job")))
    jobs.record_state(job, status, ended)
    return job


def test_old_idempotency_keys_are_forgotten(database):
    with database.transaction() as session:
        for key, created_at in (("old", OLD), ("new", NOW)):
            IdempotencyRepository(session).add("POST /api/training", key, "hash", 1, {})
            session.get(IdempotencyKey, ("POST /api/training", key)).created_at = created_at
    with database.transaction() as session:
        retention = RetentionRepository(session)
        assert retention.old_idempotency_keys(CUTOFF) == 1
        assert retention.forget_idempotency_keys(CUTOFF) == 1
        assert retention.forget_idempotency_keys(CUTOFF) == 0
    with database.reading() as session:
        known = IdempotencyRepository(session)
        assert known.get("POST /api/training", "old") is None
        assert known.get("POST /api/training", "new") is not None


def test_old_entries_of_the_audit_log_go_batch_by_batch(database, monkeypatch):
    monkeypatch.setattr(retention_repository, "ROWS_AT_ONCE", 2)
    with database.transaction() as session:
        entries = AuditRepository(session)
        for created_at in (OLD, OLD, NOW, OLD):
            session.get(AuditEntry, entries.begin("POST", "/api/training", None)).created_at = created_at
    with database.transaction() as session:
        retention = RetentionRepository(session)
        assert retention.old_audit_entries(CUTOFF) == 3
        assert [retention.remove_audit_entries(CUTOFF) for _ in range(3)] == [2, 1, 0]
    with database.transaction() as session:
        left = AuditRepository(session).list(9, None)
        assert [one.created_at for one in left] == [NOW]
        assert AuditRepository(session).begin("POST", "/api/training", None) == 5


def test_messages_that_wait_stay_however_old(database):
    with database.transaction() as session:
        webhook = WebhookRepository(session).add(
            Webhook(name="w", url="https://example.org", statuses=["COMPLETED"], secret="s")
        )
        for number, (created_at, waits) in enumerate(((OLD, False), (OLD, True), (NOW, False))):
            message = {"job_id": 1, "job_status": "COMPLETED", "ended_at": NOW, "event_uid": "e"}
            next_attempt_at = NOW if waits else None
            session.add(
                WebhookDelivery(
                    webhook_id=webhook.id,
                    uid=str(number),
                    created_at=created_at,
                    next_attempt_at=next_attempt_at,
                    **message,
                )
            )
    with database.transaction() as session:
        retention = RetentionRepository(session)
        assert retention.old_deliveries(CUTOFF) == 1
        assert retention.remove_deliveries(CUTOFF) == 1
    with database.reading() as session:
        assert {one.uid for one in WebhookRepository(session).newest_deliveries(webhook.id, 9, None)} == {"1", "2"}


def test_responses_and_conversations_go_with_their_items_when_nothing_goes_on_from_them(database, monkeypatch):
    monkeypatch.setattr(retention_repository, "ROWS_AT_ONCE", 2)
    item = {"id": "msg_1", "type": "message"}
    with database.transaction() as session:
        responses, conversations = ResponseRepository(session), ConversationRepository(session)
        for number, used_at in enumerate((OLD, OLD, NOW, OLD)):
            row = StoredResponse(uid=f"resp_{number}", status="completed", body={}, created_at=OLD, used_at=used_at)
            responses.add_events(responses.add(row, [item], [item]).id, [{}])
            conversation = conversations.add(Conversation(uid=f"conv_{number}", labels={}))
            conversations.append(conversation, [item])
            conversation.used_at = used_at
    with database.transaction() as session:
        responses = ResponseRepository(session)
        responses.use([responses.get("resp_3")])  # an old one, of a chain that goes on
    with database.transaction() as session:
        retention = RetentionRepository(session)
        assert (retention.old_responses(CUTOFF), retention.old_conversations(CUTOFF)) == (2, 3)
        assert [retention.remove_responses(CUTOFF) for _ in range(2)] == [2, 0]
        assert [retention.remove_conversations(CUTOFF) for _ in range(3)] == [2, 1, 0]
    with database.reading() as session:
        assert set(session.scalars(select(StoredResponse.uid))) == {"resp_2", "resp_3"}
        assert set(session.scalars(select(Conversation.uid))) == {"conv_2"}
        assert session.scalar(select(func.count()).select_from(StoredItem)) == 2 * 2 + 1
        assert session.scalar(select(func.count()).select_from(StoredResponseEvents)) == 2


@pytest.mark.parametrize(
    ("status", "ended", "goes"),
    [("COMPLETED", OLD, True), ("FAILED", OLD, True), ("COMPLETED", NOW, False), ("RUNNING", OLD, False)],
)
def test_measured_events_of_old_ended_jobs_go_and_their_log_stays(database, status, ended, goes):
    with database.transaction() as session:
        job, jobs = add_job(session, status, ended), TrainingJobRepository(session)
        jobs.log(job.id, "a line")
        jobs.add_events(job.id, [("step", {"step": 1}), ("evaluation", {"step": 1}), ("checkpoint", {"step": 1})])
    with database.transaction() as session:
        retention = RetentionRepository(session)
        assert list(retention.jobs_with_old_step_events(CUTOFF)) == ([job.id] if goes else [])
        if goes:
            assert retention.count_step_events(job.id) == 2
            assert retention.remove_step_events(job.id) == 2
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        kinds = {event.kind for event in jobs.events(job.id)}
        assert {"log", "state", "checkpoint"} <= kinds
        assert ({"step", "evaluation"} <= kinds) is not goes


def test_events_of_a_job_that_was_restarted_meanwhile_stay(database):
    with database.transaction() as session:
        job, jobs = add_job(session, "FAILED", OLD), TrainingJobRepository(session)
        jobs.add_events(job.id, [("step", {"step": 1})])
        jobs.record_state(job, "PENDING", NOW)
        assert RetentionRepository(session).remove_step_events(job.id) == 0
        assert RetentionRepository(session).count_step_events(job.id) == 1


def test_flow_runs_by_which_a_job_can_be_restarted_are_kept(database):
    with database.transaction() as session:
        for status in ("COMPLETED", "FAILED", "CANCELLED", "RUNNING", "PENDING", "PAUSED"):
            add_job(session, status).flow_run_id = f"job {status}"
            evaluations = EvaluationRepository(session)
            evaluation = evaluations.add(evaluation_of_parameters(EvaluationParameters(model_id=1)))
            evaluations.record_state(evaluation, status, NOW)
            evaluation.flow_run_id = f"evaluation {status}"
    with database.reading() as session:
        kept = RetentionRepository(session).flow_runs_to_keep()
    assert kept == {f"job {status}" for status in ("FAILED", "CANCELLED", "RUNNING", "PENDING", "PAUSED")} | {
        f"evaluation {status}" for status in ("RUNNING", "PENDING", "PAUSED")
    }


def test_usage_and_passes_are_remembered(database):
    for usage in ({"jobs": 1, "adapters": 2**40}, {"jobs": 3}):
        with database.transaction() as session:
            RetentionRepository(session).record_usage(usage)
    with database.transaction() as session:
        for number in range(KEPT_PASSES + 5):
            RetentionRepository(session).record_pass(NOW, number, 2**40, ["it broke"])
    with database.reading() as session:
        retention = RetentionRepository(session)
        assert retention.usage() == {"jobs": 3, "adapters": 2**40}
        newest = retention.newest_pass()
        assert (newest.removed, newest.freed_bytes, newest.failures) == (KEPT_PASSES + 4, 2**40, ["it broke"])


def test_a_removed_evaluation_is_named_by_no_job(database):
    with database.transaction() as session:
        evaluations = EvaluationRepository(session)
        first, second = (evaluations.add(evaluation_of_parameters(EvaluationParameters(model_id=1))) for _ in range(2))
        jobs = [add_job(session) for _ in range(2)]
        jobs[0].output_evaluation_id, jobs[0].base_evaluation_id = first.id, second.id
        jobs[1].base_evaluation_id = first.id
    with database.transaction() as session:
        evaluations = EvaluationRepository(session)
        evaluations.remove(evaluations.require(first.id))
    with database.reading() as session:
        found = [TrainingJobRepository(session).require(job.id) for job in jobs]
        assert [(job.output_evaluation_id, job.base_evaluation_id) for job in found] == [
            (None, second.id),
            (None, None),
        ]
