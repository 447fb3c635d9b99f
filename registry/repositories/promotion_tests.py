"""Queries on the tests by which models became champion, or did not."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from registry.tables import PromotionTest


class PromotionTestRepository:
    """Tests of challengers against champions, numbered for each pair of models and data set."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def of_evaluations(self, metric: str, evaluation_ids: tuple[int, int]) -> PromotionTest | None:
        """Return the test of a metric of two evaluations (champion's, challenger's), or None."""
        same = select(PromotionTest).where(
            PromotionTest.champion_evaluation_id == evaluation_ids[0],
            PromotionTest.challenger_evaluation_id == evaluation_ids[1],
            PromotionTest.metric == metric,
        )
        return self.session.scalar(same.limit(1))

    def next_number(self, champion_id: int, challenger_id: int, dataset_id: int) -> int:
        """Return the number, from 1, of the next test of two models over the rows of a data set."""
        newest = select(func.max(PromotionTest.number)).where(
            PromotionTest.champion_id == champion_id,
            PromotionTest.challenger_id == challenger_id,
            PromotionTest.dataset_id == dataset_id,
        )
        return (self.session.scalar(newest) or 0) + 1

    def add(self, test: PromotionTest) -> None:
        """Insert a test."""
        self.session.add(test)
        self.session.flush()
