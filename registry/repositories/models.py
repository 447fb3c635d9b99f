"""Queries on models."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.repositories.idempotency import forget
from registry.repositories.paging import page
from registry.run_states import TERMINAL
from registry.tables import Evaluation, Model, TrainingJob


class ModelRepository:
    """Models, base and fine-tuned."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, model_id: int) -> Model | None:
        """Return the model, or None if there is none or it was deleted."""
        model = self.session.get(Model, model_id)
        return model if model is not None and model.deleted_at is None else None

    def list(self, limit: int | None = None, after: int | None = None) -> Sequence[Model]:
        """Return models in id order."""
        return page(self.session, Model, limit, after, Model.deleted_at.is_(None))

    def by_ids(self, ids: Collection[int]) -> dict[int, Model]:
        """Return the models with these ids, deleted ones too: jobs still name them."""
        return {model.id: model for model in self.session.scalars(select(Model).where(Model.id.in_(ids)))}

    def remove(self, model: Model) -> None:
        """Hide the model from every list, and forget the request that made it: the same key may make a new one."""
        model.deleted_at = utcnow()
        forget(self.session, "%/models", model.id)

    def users(self, model_id: int) -> Sequence[str]:
        """Return what keeps a model from being deleted: unfinished jobs and evaluations, and models made from it."""
        jobs = select(TrainingJob.id).where(TrainingJob.model_id == model_id, TrainingJob.status.not_in(TERMINAL))
        evaluations = select(Evaluation.id).where(Evaluation.model_id == model_id, Evaluation.status.not_in(TERMINAL))
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
        """Return (status, reason) per base model whose weights any row needs."""
        needed = select(Model.base_model, Model.status, Model.status_reason).where(Model.weights.is_(None))
        rows = self.session.execute(needed.distinct())
        return {base_model: (status, reason) for base_model, status, reason in rows}

    def set_availability(self, base_model: str, status: str, reason: str | None, model_size: str | None) -> None:
        """Record whether the weights named `base_model` can be loaded, and their size where it was not given."""
        changes: dict[str, Any] = {"status": status, "status_reason": reason, "updated_at": utcnow()}
        needing = update(Model).where(Model.base_model == base_model, Model.weights.is_(None))
        self.session.execute(needing.values(**changes))
        if model_size is not None:
            self.session.execute(needing.where(Model.model_size.is_(None)).values(model_size=model_size))
