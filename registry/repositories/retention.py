"""Queries of retention: what every record refers to, rows that have grown old, and what was measured."""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.repositories.responses import delete_conversations, delete_responses
from registry.run_states import TERMINAL
from registry.tables import (
    AuditEntry,
    Conversation,
    Dataset,
    DiskUsage,
    Evaluation,
    IdempotencyKey,
    JobEvent,
    Model,
    RetentionPass,
    StoredResponse,
    TrainingJob,
    WebhookDelivery,
)

MEASURED_EVENTS = ("step", "evaluation")
KEPT_PASSES = 100
ROWS_AT_ONCE = 5000
"""Of old rows; the write lock is held for one such batch at a time."""


class RetentionRepository:
    """References from records to files and runs, and rows by their age."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def jobs(self) -> Sequence[TrainingJob]:
        """Return every training job."""
        return self.session.scalars(select(TrainingJob).order_by(TrainingJob.id)).all()

    def job_ids(self) -> set[int]:
        """Return the ids of all training jobs."""
        return set(self.session.scalars(select(TrainingJob.id)))

    def adapters_in_use(self) -> set[str]:
        """Return the names of adapter folders that a model has, or a job may still be making or register."""
        models = select(Model.adapter).where(Model.adapter.is_not(None), self._needed_model())
        return {*filter(None, self.session.scalars(models)), *self._uids_without_model()}

    def weights_in_use(self) -> set[str]:
        """Return the names of full-weights folders that a model has, or a job may still be making or register."""
        models = select(Model.weights).where(Model.weights.is_not(None), self._needed_model())
        return {*filter(None, self.session.scalars(models)), *self._uids_without_model()}

    def dataset_contents_in_use(self) -> set[str]:
        """Return the content hashes of data sets, and of deleted ones that something unfinished still reads."""
        hashes = select(Dataset.content_hash).where(Dataset.content_hash.is_not(None))
        needed = Dataset.deleted_at.is_(None) | Dataset.id.in_(self._datasets_of_unfinished())
        return set(filter(None, self.session.scalars(hashes.where(needed))))

    def uploads_in_use(self) -> set[str]:
        """Return the uids of data sets whose uploads wait to be checked."""
        waiting = select(Dataset.uid).where(Dataset.status == "VALIDATING", Dataset.deleted_at.is_(None))
        return set(self.session.scalars(waiting))

    def evaluation_uids(self) -> set[str]:
        """Return the uids of all evaluations."""
        return set(self.session.scalars(select(Evaluation.uid)))

    def job_uids(self) -> set[str]:
        """Return the uids of all training jobs."""
        return set(self.session.scalars(select(TrainingJob.uid)))

    def mlflow_runs_in_use(self) -> set[str]:
        """Return the MLflow runs of jobs and evaluations, and those that models came from."""
        found: set[str] = set()
        for column in (TrainingJob.mlflow_run_id, Evaluation.mlflow_run_id):
            found |= set(filter(None, self.session.scalars(select(column))))
        parameters = select(Model.parameters).where(Model.deleted_at.is_(None), Model.training_job_id.is_not(None))
        return found | {one["mlflow_run_id"] for one in self.session.scalars(parameters) if one}

    def versions_of_deleted_models(self, before: datetime) -> list[tuple[str, str]]:
        """Return name and version, in MLflow's model registry, of models that were deleted before this moment."""
        gone = select(Model.parameters).where(Model.deleted_at < before, Model.training_job_id.is_not(None))
        return [(one["registered_model"], one["registered_model_version"]) for one in self.session.scalars(gone) if one]

    def made_before(self, before: datetime) -> Sequence[Model]:
        """Return models, not deleted, whose job completed before this moment."""
        done = select(TrainingJob.id).where(TrainingJob.status == "COMPLETED", TrainingJob.completed_at < before)
        query = select(Model).where(Model.deleted_at.is_(None), Model.training_job_id.in_(done))
        return self.session.scalars(query.order_by(Model.id)).all()

    def flow_runs_to_keep(self) -> set[str]:
        """Return the flow runs of what has not ended, or can be restarted: failed and cancelled jobs."""
        jobs = select(TrainingJob.flow_run_id).where(TrainingJob.status != "COMPLETED")
        evaluations = select(Evaluation.flow_run_id).where(Evaluation.status.not_in(TERMINAL))
        return {*filter(None, self.session.scalars(jobs)), *filter(None, self.session.scalars(evaluations))}

    def anything_unfinished(self) -> bool:
        """Return whether a job or an evaluation has not ended."""
        tables = (TrainingJob, Evaluation)
        return any(
            self.session.scalar(select(table.id).where(table.status.not_in(TERMINAL)).limit(1)) is not None
            for table in tables
        )

    def old_idempotency_keys(self, before: datetime) -> int:
        """Return how many keys are remembered since before this moment."""
        return self._count(IdempotencyKey.created_at < before)

    def forget_idempotency_keys(self, before: datetime) -> int:
        """Forget such keys, a batch of them; returns how many."""
        old = select(IdempotencyKey.scope, IdempotencyKey.key).where(IdempotencyKey.created_at < before)
        removed = 0
        for scope, key in self.session.execute(old.limit(ROWS_AT_ONCE)).tuples().all():
            one = (IdempotencyKey.scope == scope) & (IdempotencyKey.key == key)
            self.session.execute(delete(IdempotencyKey).where(one))
            removed += 1
        return removed

    def old_audit_entries(self, before: datetime) -> int:
        """Return how many entries the audit log has from before this moment."""
        return self._count(AuditEntry.created_at < before)

    def remove_audit_entries(self, before: datetime) -> int:
        """Delete such entries, a batch of them, the oldest first; returns how many."""
        old = select(AuditEntry.id).where(AuditEntry.created_at < before).order_by(AuditEntry.id)
        return self._delete_ids(AuditEntry, self.session.scalars(old.limit(ROWS_AT_ONCE)).all())

    def old_deliveries(self, before: datetime) -> int:
        """Return how many webhook messages are done with, and were made before this moment."""
        return self._count(*_done_with(before))

    def remove_deliveries(self, before: datetime) -> int:
        """Delete such messages, a batch of them; returns how many."""
        batch = select(WebhookDelivery.id).where(*_done_with(before)).order_by(WebhookDelivery.id).limit(ROWS_AT_ONCE)
        return self._delete_ids(WebhookDelivery, self.session.scalars(batch).all())

    def old_responses(self, before: datetime) -> int:
        """Return how many stored responses were last gone on from before this moment."""
        return self._count(StoredResponse.used_at < before)

    def remove_responses(self, before: datetime) -> int:
        """Delete such responses with their items, a batch of them; returns how many."""
        old = select(StoredResponse.id).where(StoredResponse.used_at < before).order_by(StoredResponse.used_at)
        ids = self.session.scalars(old.limit(ROWS_AT_ONCE)).all()
        delete_responses(self.session, ids)
        return len(ids)

    def old_conversations(self, before: datetime) -> int:
        """Return how many conversations were last added to before this moment."""
        return self._count(Conversation.used_at < before)

    def remove_conversations(self, before: datetime) -> int:
        """Delete such conversations with their items, a batch of them; returns how many."""
        old = select(Conversation.id).where(Conversation.used_at < before).order_by(Conversation.used_at)
        ids = self.session.scalars(old.limit(ROWS_AT_ONCE)).all()
        delete_conversations(self.session, ids)
        return len(ids)

    def jobs_with_old_step_events(self, before: datetime) -> Sequence[int]:
        """Return the jobs that ended before this moment and still have events of what was measured."""
        has = select(JobEvent.id).where(JobEvent.job_id == TrainingJob.id, JobEvent.kind.in_(MEASURED_EVENTS)).exists()
        ended = select(TrainingJob.id).where(TrainingJob.status.in_(TERMINAL), TrainingJob.completed_at < before, has)
        return self.session.scalars(ended.order_by(TrainingJob.id)).all()

    def count_step_events(self, job_id: int) -> int:
        """Return how many events of what was measured a job has."""
        return self._count(JobEvent.job_id == job_id, JobEvent.kind.in_(MEASURED_EVENTS))

    def remove_step_events(self, job_id: int) -> int:
        """Delete them if the job has ended, a batch of them; returns how many. Its log and its other events stay."""
        ended = select(TrainingJob.id).where(TrainingJob.id == job_id, TrainingJob.status.in_(TERMINAL))
        if self.session.scalar(ended.with_for_update()) is None:
            return 0
        measured = select(JobEvent.id).where(JobEvent.job_id == job_id, JobEvent.kind.in_(MEASURED_EVENTS))
        return self._delete_ids(JobEvent, self.session.scalars(measured.limit(ROWS_AT_ONCE)).all())

    def record_usage(self, usage: Mapping[str, int]) -> None:
        """Store how many bytes each kind takes now."""
        now = utcnow()
        for kind, size in usage.items():
            self.session.merge(DiskUsage(kind=kind, bytes=size, measured_at=now))

    def usage(self) -> dict[str, int]:
        """Return the bytes of each kind, as last measured."""
        return {one.kind: one.bytes for one in self.session.scalars(select(DiskUsage).order_by(DiskUsage.kind))}

    def record_pass(self, started_at: datetime, removed: int, freed: int, failures: list[str]) -> None:
        """Store what a pass has done; the newest hundred are kept."""
        done = RetentionPass(
            started_at=started_at, ended_at=utcnow(), removed=removed, freed_bytes=freed, failures=failures
        )
        self.session.add(done)
        self.session.flush()
        self.session.execute(delete(RetentionPass).where(RetentionPass.id <= done.id - KEPT_PASSES))

    def newest_pass(self) -> RetentionPass | None:
        """Return the newest pass, or None."""
        return self.session.scalar(select(RetentionPass).order_by(RetentionPass.id.desc()).limit(1))

    def _uids_without_model(self) -> set[str]:
        """Return the uids of jobs that have made no model: what they have stored is registered when they go on."""
        return set(self.session.scalars(select(TrainingJob.uid).where(TrainingJob.output_model_id.is_(None))))

    def _needed_model(self) -> ColumnElement[bool]:
        """A model that is there, or that something unfinished still works with."""
        working = [
            select(table.model_id).where(table.status.not_in(TERMINAL)).scalar_subquery()
            for table in (TrainingJob, Evaluation)
        ]
        return Model.deleted_at.is_(None) | Model.id.in_(working[0]) | Model.id.in_(working[1])

    def _datasets_of_unfinished(self) -> set[int]:
        recipes = self.session.scalars(select(TrainingJob.recipe).where(TrainingJob.status.not_in(TERMINAL)))
        asked = self.session.scalars(select(Evaluation.parameters).where(Evaluation.status.not_in(TERMINAL)))
        named = {one.get(name) for one in (*recipes, *asked) for name in ("dataset_id", "held_out_dataset_id")}
        return {one for one in named if one is not None}

    def _count(self, *conditions: ColumnElement[bool]) -> int:
        return self.session.scalar(select(func.count()).where(*conditions)) or 0

    def _delete_ids(self, table: type[AuditEntry | JobEvent | WebhookDelivery], ids: Sequence[int]) -> int:
        self.session.execute(delete(table).where(table.id.in_(ids)))
        return len(ids)


def _done_with(before: datetime) -> tuple[ColumnElement[bool], ...]:
    return (WebhookDelivery.next_attempt_at.is_(None), WebhookDelivery.created_at < before)
