"""Queries on data sets."""

from sqlalchemy.orm import Session

from registry.tables import Dataset


class DatasetRepository:
    """Data sets that jobs and evaluations can name."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def get(self, dataset_id: int) -> Dataset | None:
        """Return the data set, or None."""
        return self.session.get(Dataset, dataset_id)
