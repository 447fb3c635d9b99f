"""How long flow runs have been in their states, by the clock of the process that looks at them.

The moment that Prefect writes beside a state is by the wall clock, which people and time servers set: compared with
another moment it may say that a state is older than the one before it, or that it began an hour ago.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from api.orchestration.prefect_client import FlowRun

FORGOTTEN_SECONDS = 3600.0
"""A run that nobody has looked at for so long has most likely ended."""


@dataclass
class _Sighting:
    state: tuple[object, ...]
    first: float
    last: float


class Sightings:
    """Remembers since when each run has been seen in its present state."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that only ever grow."""
        self._clock = clock
        self._seen: dict[str, _Sighting] = {}
        self._swept = clock()

    def seconds(self, run: FlowRun, recorded_at: datetime | None) -> float:
        """Note that the run is in this state, and return how long ago it was first seen in it.

        `recorded_at` is the moment beside the state that its record has: when another observer records one, what this
        one has seen before says nothing of the present any more, and it begins anew.
        """
        now, state = self._clock(), (run.state_type, run.state_name, run.state_at, recorded_at)
        seen = self._seen.get(run.id)
        if seen is None or seen.state != state:
            seen = self._seen[run.id] = _Sighting(state, now, now)
        seen.last = now
        self._sweep(now)
        return now - seen.first

    def _sweep(self, now: float) -> None:
        if now - self._swept > FORGOTTEN_SECONDS:
            self._swept = now
            self._seen = {id_: seen for id_, seen in self._seen.items() if now - seen.last < FORGOTTEN_SECONDS}
