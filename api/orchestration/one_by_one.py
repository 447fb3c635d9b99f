"""An error with one record must not hold up the records behind it."""

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from api.errors import ServiceDown


class OneByOne:
    """Lets what can be done be done: an error with one record is kept, and the next one has its turn.

    An outage is raised at once: it would be the same for all.
    """

    def __init__(self) -> None:
        self._errors: list[Exception] = []

    @contextmanager
    def each(self, name: str) -> Iterator[None]:
        """Keep what is raised over the record of this name."""
        try:
            yield
        except (ServiceDown, OperationalError):
            raise
        except Exception as error:  # noqa: BLE001 - kept, and raised by `done`
            error.add_note(f"over {name}")
            self._errors.append(error)

    def done(self) -> None:
        """Raise what was kept."""
        if self._errors:
            raise ExceptionGroup(f"{len(self._errors)} records: {self._errors[0]}", self._errors)
