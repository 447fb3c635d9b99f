"""Queries on the controller: who leads, and how loops and services fare."""

from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from registry.clock import utcnow
from registry.tables import ControllerLease, LoopState, ServiceState

LEADER = "leader"


class ControllerRepository:
    """The leader's lease, and what the leader records."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def lease(self) -> ControllerLease | None:
        """Return the lease; None before the first controller has led."""
        return self.session.get(ControllerLease, LEADER)

    def take(self, holder: str, seen: ControllerLease | None) -> int | None:
        """Begin a new term for `holder`, if the lease is still as it was `seen`; return the term, or None.

        Raises `IntegrityError` when another one was the first ever at this very moment.
        """
        if seen is None:
            self.session.add(ControllerLease(name=LEADER, holder=holder, term=1, renewals=0))
            self.session.flush()
            return 1
        unchanged = (
            (ControllerLease.name == LEADER)
            & (ControllerLease.term == seen.term)
            & (ControllerLease.renewals == seen.renewals)
        )
        values = {"holder": holder, "term": seen.term + 1, "renewed_at": utcnow(), "released": False}
        taken = update(ControllerLease).where(unchanged).values(values).returning(ControllerLease.term)
        return self.session.scalar(taken)

    def renew(self, term: int) -> bool:
        """Show that the leader of this term lives; return whether its term still is."""
        values = {"renewals": ControllerLease.renewals + 1, "renewed_at": utcnow()}
        return self._change(term, values)

    def release(self, term: int) -> bool:
        """Leave the lead in order: another one need not wait."""
        return self._change(term, {"released": True})

    def _change(self, term: int, values: dict[str, Any]) -> bool:
        mine = (ControllerLease.name == LEADER) & (ControllerLease.term == term)
        changed = update(ControllerLease).where(mine).values(values).returning(ControllerLease.term)
        return self.session.scalar(changed) is not None

    def record(self, states: Iterable[LoopState | ServiceState]) -> None:
        """Store how loops and services fare, each in the place of what was known of it."""
        for state in states:
            self.session.merge(state)

    def loops(self) -> Sequence[LoopState]:
        """Return every loop's state, by name."""
        return self.session.scalars(select(LoopState).order_by(LoopState.name)).all()

    def services(self) -> Sequence[ServiceState]:
        """Return every service's state, by name."""
        return self.session.scalars(select(ServiceState).order_by(ServiceState.name)).all()

    def forget_other_loops(self, names: Iterable[str]) -> None:
        """Delete the states of loops that are not among `names`: of an earlier version."""
        for state in self.loops():
            if state.name not in set(names):
                self.session.delete(state)
