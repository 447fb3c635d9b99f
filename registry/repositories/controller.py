"""Queries on the controller: who leads, and how loops and services fare."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import delete, insert, select, update
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

    def record(self, loops: Sequence[LoopState], services: Sequence[ServiceState]) -> None:
        """Store how loops and services fare in the place of what was known; those of an earlier version go."""
        self._replace(LoopState, loops)
        self._replace(ServiceState, services)

    def _replace(self, table: type[LoopState | ServiceState], states: Sequence[LoopState | ServiceState]) -> None:
        """Two statements for as many rows as there are: it is done every few seconds, for ever."""
        columns = table.__table__.columns.keys()
        rows = {state.name: {column: getattr(state, column) for column in columns} for state in states}
        known = set(self.session.scalars(select(table.name)))
        if known - rows.keys():
            self.session.execute(delete(table).where(table.name.in_(known - rows.keys())))
        if known & rows.keys():
            self.session.execute(update(table), [rows[name] for name in rows if name in known])
        if rows.keys() - known:
            self.session.execute(insert(table), [rows[name] for name in rows if name not in known])

    def loops(self) -> Sequence[LoopState]:
        """Return every loop's state, by name."""
        return self.session.scalars(select(LoopState).order_by(LoopState.name)).all()

    def services(self) -> Sequence[ServiceState]:
        """Return every service's state, by name."""
        return self.session.scalars(select(ServiceState).order_by(ServiceState.name)).all()
