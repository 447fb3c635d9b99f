"""Counts over the whole platform."""

from dataclasses import dataclass

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from registry.tables import Counter, Evaluation, Model, TrainingJob

GENERATIONS = "generations"


@dataclass(frozen=True, slots=True)
class PlatformCounts:
    """How much of everything there is."""

    total_models: int
    total_training_jobs: int
    running_training_jobs: int
    completed_training_jobs: int
    total_evaluations: int
    total_generations: int


class StatisticsRepository:
    """Platform-wide counts, all from the database."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def counts(self) -> PlatformCounts:
        """Return the counts, in one query."""
        jobs = select(func.count()).select_from(TrainingJob)
        query = select(
            select(func.count()).select_from(Model).where(Model.deleted_at.is_(None)).scalar_subquery(),
            jobs.scalar_subquery(),
            jobs.where(TrainingJob.status == "RUNNING").scalar_subquery(),
            jobs.where(TrainingJob.status == "COMPLETED").scalar_subquery(),
            select(func.count()).select_from(Evaluation).scalar_subquery(),
            select(func.coalesce(func.max(Counter.value), 0)).where(Counter.name == GENERATIONS).scalar_subquery(),
        )
        return PlatformCounts(*self.session.execute(query).one())

    def count_generations(self, answers: int) -> None:
        """Add answered generations."""
        added = update(Counter).where(Counter.name == GENERATIONS).values(value=Counter.value + answers)
        self.session.execute(added)
