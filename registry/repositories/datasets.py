"""Queries on data sets."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.repositories.idempotency import forget
from registry.repositories.paging import page
from registry.run_states import TERMINAL
from registry.tables import Dataset, Evaluation, TrainingJob


class DatasetRepository:
    """Data sets that jobs and evaluations can name."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, dataset_id: int) -> Dataset | None:
        """Return the data set, or None if there is none or it was deleted."""
        dataset = self.session.get(Dataset, dataset_id)
        return dataset if dataset is not None and dataset.deleted_at is None else None

    def list(
        self, limit: int | None = None, after: int | None = None, *, newest_first: bool = False
    ) -> Sequence[Dataset]:
        """Return data sets in id order, or in its reverse."""
        return page(self.session, Dataset, limit, after, Dataset.deleted_at.is_(None), newest_first=newest_first)

    def add(self, dataset: Dataset) -> Dataset:
        """Insert a data set; its id is set on return."""
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
        jobs = select(TrainingJob).where(TrainingJob.status != "COMPLETED")
        evaluations = select(Evaluation).where(Evaluation.status.not_in(TERMINAL))
        using_jobs = [
            f"training job {job.id}" + f" ({job.status}: it can be restarted)" * (job.status in TERMINAL)
            for job in self.session.scalars(jobs)
            if _names(job.recipe, dataset_id)
        ]
        using_evaluations = [one.id for one in self.session.scalars(evaluations) if _names(one.parameters, dataset_id)]
        held_out = [dataset.id for dataset in self.list() if dataset.settings.get("held_out_dataset_id") == dataset_id]
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
    return dataset_id in (parameters.get("dataset_id"), parameters.get("held_out_dataset_id"))
