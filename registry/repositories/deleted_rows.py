"""Queries on the rows of deleted models and data sets: which of them nothing refers to any more."""

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, delete, or_, select
from sqlalchemy.orm import Session, aliased

from registry.repositories.datasets import NAMING
from registry.tables import Dataset, Evaluation, Model, PromotionTest, TrainingJob


class DeletedRowsRepository:
    """Rows that a deletion has hidden, and that are removed when neither a record nor a later decision needs them."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def models(
        self, before: datetime, registered_runs: Collection[str], among: Collection[int] | None = None
    ) -> list[int]:
        """Return models that were deleted before a moment and may go, the newest first, and so before their ancestors.

        What has a version in MLflow's registry, made by one of `registered_runs`, stays: it may be the champion, and
        the version is found through the row. `among` asks about these models only.
        """
        conditions = [*_unreferenced(before), *([] if among is None else [Model.id.in_(among)])]
        candidates = self.session.execute(select(Model.id, Model.parameters).where(*conditions)).tuples()
        free = {found for found, made in candidates if (made or {}).get("mlflow_run_id") not in registered_runs}
        child = aliased(Model)
        links = select(child.id, child.parent_model_id).join(Model, child.parent_model_id == Model.id)
        # The youngest first, who are younger than their parents: one that stays keeps all of its ancestors.
        for found, parent in self.session.execute(links.where(*conditions).order_by(child.id.desc())).tuples():
            if found not in free:
                free.discard(parent or 0)
        return sorted(free, reverse=True)

    def remove_models(self, ids: Sequence[int]) -> None:
        """Delete rows that `models` has returned in this transaction, with their promotion tests, which are over."""
        tests = or_(PromotionTest.challenger_id.in_(ids), PromotionTest.champion_id.in_(ids))
        self.session.execute(delete(PromotionTest).where(tests))
        for found in ids:
            self.session.execute(delete(Model).where(Model.id == found))

    def datasets(self, before: datetime) -> list[int]:
        """Return data sets that were deleted before this moment and that no record names."""
        deleted = select(Dataset.id).where(Dataset.deleted_at < before).order_by(Dataset.id)
        found = self.session.scalars(deleted).all()
        named = set(self._named_datasets()) if found else set()
        return [one for one in found if one not in named]

    def remove_datasets(self, ids: Collection[int]) -> int:
        """Delete the rows of deleted data sets; returns how many. Nothing new can name a deleted one."""
        rows = delete(Dataset).where(Dataset.id.in_(ids), Dataset.deleted_at.is_not(None)).returning(Dataset.id)
        return len(self.session.scalars(rows).all())

    def _named_datasets(self) -> Iterator[int | None]:
        """Yield what jobs, evaluations, models (deleted ones too: ancestors), data sets and promotion tests name."""
        for field in NAMING:
            of_model = Model.parameters[("recipe", field)]
            for named in (TrainingJob.recipe[field], Evaluation.parameters[field], of_model):
                yield from self.session.scalars(select(named.as_integer()).distinct())
        held_out = select(Dataset.held_out_dataset_id).where(Dataset.deleted_at.is_(None))
        yield from self.session.scalars(held_out.distinct())
        yield from self.session.scalars(select(PromotionTest.dataset_id).distinct())


def _unreferenced(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Conditions of a model that was deleted before a moment and that no job, evaluation or promotion test needs.

    The first of a base that was registered stays: its row says whose the name in MLflow's registry is.
    """
    earlier, challenger = aliased(Model), aliased(Model)
    same = earlier.parameters["registered_model"].as_string() == Model.parameters["registered_model"].as_string()
    not_the_first = select(earlier.id).where(earlier.base_model == Model.base_model, earlier.id < Model.id, same)
    contested = (
        select(PromotionTest.id)
        .join(challenger, challenger.id == PromotionTest.challenger_id)
        .where(PromotionTest.champion_id == Model.id, challenger.deleted_at.is_(None))
    )
    return (
        Model.deleted_at < before,
        ~select(TrainingJob.id).where(TrainingJob.model_id == Model.id).exists(),
        ~select(TrainingJob.id).where(TrainingJob.output_model_id == Model.id).exists(),
        ~select(TrainingJob.id).where(TrainingJob.id == Model.training_job_id).exists(),
        ~select(Evaluation.id).where(Evaluation.model_id == Model.id).exists(),
        ~contested.exists(),
        or_(Model.parameters["registered_model"].as_string().is_(None), not_the_first.exists()),
    )
