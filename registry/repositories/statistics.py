"""Counts over the whole platform."""

from collections import Counter as Counts
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.orm import Session

from registry.tables import Counter, StatusCount

GENERATIONS = "generations"
REFUSED = {reason: f"refused_requests.{reason}" for reason in ("missing", "unknown", "scope")}
"""Requests without a sufficient key, by what was wrong with it."""
COUNTERS = (GENERATIONS, *REFUSED.values())
COUNTED = ("training_jobs", "evaluations", "models")


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
        """Return the counts."""
        by_status = self.by_status()
        jobs, models = by_status["training_jobs"], by_status["models"]
        return PlatformCounts(
            total_models=sum(models.values()) - models.get("DELETED", 0),
            total_training_jobs=sum(jobs.values()),
            running_training_jobs=jobs.get("RUNNING", 0),
            completed_training_jobs=jobs.get("COMPLETED", 0),
            total_evaluations=sum(by_status["evaluations"].values()),
            total_generations=self.counted()[GENERATIONS],
        )

    def by_status(self) -> dict[str, dict[str, int]]:
        """Return for each counted table how many rows there are in each status that occurs."""
        count = func.sum(StatusCount.change)
        query = select(StatusCount.counted, StatusCount.status, count).group_by(StatusCount.counted, StatusCount.status)
        found: dict[str, dict[str, int]] = {table: {} for table in COUNTED}
        for table, status, rows in self.session.execute(query.having(count != 0)):
            found[table][status] = int(rows)
        return found

    def fold_counts(self) -> None:
        """Replace the noted changes by their sums, so that reading them stays quick."""
        changes = delete(StatusCount).returning(StatusCount.counted, StatusCount.status, StatusCount.change)
        sums: Counts[tuple[str, str]] = Counts()
        for table, status, change in self.session.execute(changes):
            sums[table, status] += change
        for (table, status), rows in sums.items():
            if rows:
                self.session.add(StatusCount(counted=table, status=status, change=rows))

    def counted(self) -> Counts[str]:
        """Return the counters that only grow, by name."""
        return Counts(dict(self.session.execute(select(Counter.name, Counter.value)).tuples().all()))

    def count(self, more: Mapping[str, int]) -> None:
        """Add to counters."""
        for name in sorted(more):  # in one order: two writers wait for one another, and not in a circle
            added = update(Counter).where(Counter.name == name).values(value=Counter.value + more[name])
            self.session.execute(added)
