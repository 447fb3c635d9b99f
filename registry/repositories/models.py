"""Queries on models."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.repositories.flow_backed import unfinished
from registry.repositories.idempotency import forget
from registry.repositories.locking import Lock, for_update
from registry.repositories.paging import EVERYTHING, Filters, conditions_of, page
from registry.tables import Evaluation, Model, TrainingJob


class ModelRepository:
    """Models, base and fine-tuned."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, model_id: int, lock: Lock | None = None) -> Model | None:
        """Return the model, or None if there is none or it was deleted.

        With `lock` that stays so until the transaction's end: `use` for what is going to name it, `change` to delete
        it (see `registry.repositories.locking`).
        """
        model = self.session.get(Model, model_id, with_for_update=for_update(lock))
        return model if model is not None and model.deleted_at is None else None

    def list(
        self,
        limit: int | None = None,
        after: int | None = None,
        filters: Filters = EVERYTHING,
        *,
        newest_first: bool = False,
    ) -> Sequence[Model]:
        """Return models in id order, or in its reverse."""
        conditions = [Model.deleted_at.is_(None), *conditions_of(Model, filters)]
        return page(self.session, Model, limit, after, *conditions, newest_first=newest_first)

    def by_ids(self, ids: Collection[int]) -> dict[int, Model]:
        """Return the models with these ids, deleted ones too: jobs still name them."""
        return {model.id: model for model in self.session.scalars(select(Model).where(Model.id.in_(ids)))}

    def remove(self, model: Model) -> None:
        """Hide the model from every list, and forget the request that made it: the same key may make a new one."""
        model.deleted_at = utcnow()
        forget(self.session, "%/models", model.id)

    def users(self, model_id: int) -> Sequence[str]:
        """Return what keeps a model from being deleted: unfinished jobs and evaluations, and models made from it."""
        # `+ 0`: found by their status, of which few are unfinished, not among all that the model ever had.
        jobs = select(TrainingJob.id).where(TrainingJob.model_id + 0 == model_id, unfinished(TrainingJob))
        evaluations = select(Evaluation.id).where(Evaluation.model_id + 0 == model_id, unfinished(Evaluation))
        children = select(Model.id).where(Model.parent_model_id == model_id, Model.deleted_at.is_(None))
        kinds = (("training job", jobs), ("evaluation", evaluations), ("model", children))
        return [f"{kind} {found}" for kind, query in kinds for found in self.session.scalars(query)]

    def add(self, model: Model) -> Model:
        """Insert a model; its id is set on return."""
        self.session.add(model)
        self.session.flush()
        return model

    def of_job(self, training_job_id: int) -> Model | None:
        """Return the model that a training job made, or None."""
        return self.session.scalar(select(Model).where(Model.training_job_id == training_job_id))

    def base_of_name(self, base_model: str) -> Model | None:
        """Return the first model that is this base as it came, or None."""
        plain = select(Model).where(
            Model.base_model == base_model,
            Model.adapter.is_(None),
            Model.weights.is_(None),
            Model.deleted_at.is_(None),
        )
        return self.session.scalar(plain.order_by(Model.id).limit(1))

    def lineage(self, model: Model) -> Sequence[Model]:
        """Return the model, the one that it was trained from, and so on to the base; deleted ones too."""
        found = [model]
        while found[-1].parent_model_id is not None:
            parent = self.session.get(Model, found[-1].parent_model_id)
            assert parent is not None  # a foreign key
            found.append(parent)
        return found

    def newest_trained(self, base_model: str) -> Model | None:
        """Return the newest model that a training job made on this base, or None."""
        trained = select(Model).where(
            Model.base_model == base_model, Model.training_job_id.is_not(None), Model.deleted_at.is_(None)
        )
        return self.session.scalar(trained.order_by(Model.id.desc()).limit(1))

    def registered_model_of(self, base_model: str) -> str | None:
        """Return MLflow's registered model that the base's first fine-tune is a version of, deleted ones counted."""
        name = Model.parameters["registered_model"].as_string()
        first = select(name).where(
            Model.base_model == base_model, Model.training_job_id.is_not(None), name.is_not(None)
        )
        return self.session.scalar(first.order_by(Model.id).limit(1))

    def first_base_of(self, registered_model: str) -> str | None:
        """Return the base whose fine-tune was the first version of a registered model, deleted ones counted."""
        first = select(Model.base_model).where(Model.parameters["registered_model"].as_string() == registered_model)
        return self.session.scalar(first.order_by(Model.id).limit(1))

    def availability(self) -> dict[str, tuple[str, str | None]]:
        """Return (status, reason) per base model whose weights any row needs; where rows differ, one row's."""
        return {base_model: self._availability_of(base_model) for base_model in self._needed_bases()}

    def _needed_bases(self) -> Iterator[str]:
        """Yield the base models that rows name, each once, without a look at each row."""
        named = select(Model.base_model).where(Model.weights.is_(None)).order_by(Model.base_model).limit(1)
        found = self.session.scalar(named)
        while found is not None:
            yield found
            found = self.session.scalar(named.where(Model.base_model > found))

    def _availability_of(self, base_model: str) -> tuple[str, str | None]:
        needing = select(Model.status, Model.status_reason).where(
            Model.base_model == base_model, Model.weights.is_(None)
        )
        status, reason = self.session.execute(needing.order_by(Model.status, Model.id).limit(1)).tuples().one()
        return status, reason

    def request_fetch(self, base_model: str) -> None:
        """Ask the controller to fetch weights that only the hub has."""
        needing = update(Model).where(Model.base_model == base_model, Model.fetch_requested_at.is_(None))
        self.session.execute(needing.values(fetch_requested_at=utcnow()))

    def wanted_from_hub(self) -> Sequence[str]:
        """Return the base models that are to be fetched."""
        wanted = select(Model.base_model).where(Model.fetch_requested_at.is_not(None), Model.deleted_at.is_(None))
        return self.session.scalars(wanted.distinct()).all()

    def end_fetch(self, base_model: str) -> None:
        """Record that fetching has ended, one way or the other."""
        self.session.execute(update(Model).where(Model.base_model == base_model).values(fetch_requested_at=None))

    def set_availability(self, base_model: str, status: str, reason: str | None, model_size: str | None) -> None:
        """Record whether the weights named `base_model` can be loaded, and their size where it was not given."""
        changes: dict[str, Any] = {"status": status, "status_reason": reason, "updated_at": utcnow()}
        needing = update(Model).where(Model.base_model == base_model, Model.weights.is_(None))
        self.session.execute(needing.values(**changes))
        if model_size is not None:
            self.session.execute(needing.where(Model.model_size.is_(None)).values(model_size=model_size))
