"""Queries on data sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import or_, select
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.repositories.flow_backed import unfinished
from registry.repositories.idempotency import forget
from registry.repositories.locking import Lock, for_update
from registry.repositories.paging import EVERYTHING, Filters, conditions_of, page
from registry.tables import Dataset, Evaluation, TrainingJob

RESTARTABLE = ("FAILED", "CANCELLED")
NAMING = ("dataset_id", "held_out_dataset_id")
"""Where a recipe, or an evaluation's parameters, name a data set."""


class DatasetRepository:
    """Data sets that jobs and evaluations can name."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, dataset_id: int, lock: Lock | None = None) -> Dataset | None:
        """Return the data set, or None if there is none or it was deleted; with `lock` as of a model."""
        dataset = self.session.get(Dataset, dataset_id, with_for_update=for_update(lock))
        return dataset if dataset is not None and dataset.deleted_at is None else None

    def list(
        self,
        limit: int | None = None,
        after: int | None = None,
        filters: Filters = EVERYTHING,
        *,
        newest_first: bool = False,
    ) -> Sequence[Dataset]:
        """Return data sets in id order, or in its reverse."""
        conditions = [Dataset.deleted_at.is_(None), *conditions_of(Dataset, filters)]
        return page(self.session, Dataset, limit, after, *conditions, newest_first=newest_first)

    def add(self, dataset: Dataset) -> Dataset:
        """Insert a data set; its id is set on return."""
        dataset.held_out_dataset_id = dataset.settings.get("held_out_dataset_id")
        self.session.add(dataset)
        self.session.flush()
        return dataset

    def unchecked(self) -> Sequence[Dataset]:
        """Return data sets whose rows have not been checked to the end, oldest first."""
        query = select(Dataset).where(Dataset.status == "VALIDATING", Dataset.deleted_at.is_(None))
        return self.session.scalars(query.order_by(Dataset.id)).all()

    def users(self, dataset_id: int) -> Sequence[str]:
        """Return what keeps a data set from being deleted: jobs and evaluations that name it and may still run.

        A job that failed or was cancelled counts: it can be restarted, and its checkpoints are worth nothing without
        the rows.
        """
        jobs = select(TrainingJob).where(unfinished(TrainingJob))
        evaluations = select(Evaluation).where(unfinished(Evaluation))
        using_jobs = [f"training job {job.id}" for job in self.session.scalars(jobs) if _names(job.recipe, dataset_id)]
        named = or_(*(TrainingJob.recipe[field].as_integer() == dataset_id for field in NAMING))
        restartable = select(TrainingJob.id, TrainingJob.status).where(TrainingJob.status.in_(RESTARTABLE), named)
        using_jobs += [
            f"training job {job_id} ({status}: it can be restarted)"
            for job_id, status in self.session.execute(restartable.order_by(TrainingJob.id))
        ]
        using_evaluations = [one.id for one in self.session.scalars(evaluations) if _names(one.parameters, dataset_id)]
        datasets = select(Dataset.id).where(Dataset.held_out_dataset_id == dataset_id, Dataset.deleted_at.is_(None))
        held_out = self.session.scalars(datasets.order_by(Dataset.id)).all()
        kinds = (("evaluation", using_evaluations), ("data set", held_out))
        return using_jobs + [f"{kind} {found}" for kind, ids in kinds for found in ids]

    def shared(self, dataset: Dataset) -> bool:
        """Return whether another data set has the same rows, and so the same folder."""
        others = select(Dataset.id).where(
            Dataset.content_hash == dataset.content_hash, Dataset.id != dataset.id, Dataset.deleted_at.is_(None)
        )
        return self.session.scalar(others.limit(1)) is not None

    def remove(self, dataset: Dataset) -> None:
        """Hide the data set from every list, and forget the request that made it: the same key may make a new one."""
        dataset.deleted_at = utcnow()
        for endpoint in ("%/datasets", "%/files"):
            forget(self.session, endpoint, dataset.id)


def _names(parameters: Mapping[str, Any], dataset_id: int) -> bool:
    return dataset_id in (parameters.get(field) for field in NAMING)
