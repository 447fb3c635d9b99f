"""What a rule of retention is: something that may go, for how long it is kept, how it is found and removed."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from configs.settings import Settings
from registry.database import Database

YOUNGEST = timedelta(hours=1)
"""What no record refers to may be on its way to one: nothing younger is an orphan, whatever the settings say."""


@dataclass(frozen=True, slots=True)
class Found:
    """Something that may go."""

    what: str
    """A path, or a few words, for people."""
    size: int
    """Bytes that its removal frees on the disk; 0 where that is not known before."""
    remove: Callable[[], bool]
    """Removes it, unless something has come to refer to it meanwhile; returns whether it is gone."""
    count: int = 1
    """How many files, rows or runs it is."""


@dataclass(frozen=True, slots=True)
class Context:
    """What every rule is given."""

    settings: Settings
    database: Database
    now: datetime
    """The present moment, UTC, without an offset."""
    loaded: frozenset[str] | None
    """Folders that the engine has in memory; None: it is there, but does not say."""

    def before(self, days: float) -> datetime:
        """Return the moment so many days ago."""
        return self.now - timedelta(days=days)

    def is_loaded(self, path: str) -> bool:
        """Return whether the engine has, or may have, a folder in memory."""
        return self.loaded is None or path in self.loaded


@dataclass(frozen=True, slots=True)
class Rule:
    """One kind of thing that may go."""

    name: str
    what: str
    keep: str
    """The setting with the days that it is kept for; None there: for ever."""
    find: Callable[[Context, datetime], Iterator[Found]]
    """Yields what is older than a moment and may go."""
