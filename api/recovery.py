"""What to do with a run whose process has died: let it go on from its newest checkpoint, a bounded number of times."""

from datetime import timedelta

from api.orchestrator import FlowRun
from registry.attempts import attempt_is_alive
from registry.clock import utcnow
from registry.tables import FlowBacked

MOST_CRASHES_AT_ONE_PLACE = 3
# Prefect's worker may still be tidying up after a crash; what it writes last must not undo the retry.
SETTLE = timedelta(seconds=5)
# A run that Prefect believes to be starting or running has had this long to record its process.
CLAIM = timedelta(seconds=30)


def has_died(record: FlowBacked, run: FlowRun) -> bool:
    """Return whether no process works on the run, nor will, though it has not ended: it crashed, or its worker died."""
    age = utcnow() - run.state_at
    if run.state_type == "CRASHED":
        return age > SETTLE
    return run.state_type in ("PENDING", "RUNNING", "CANCELLING") and age > CLAIM and not attempt_is_alive(record)


def may_go_on(record: FlowBacked) -> bool:
    """Return whether another attempt is worth it: not if the last ones all died from the same place."""
    return record.crash_step != record.attempt_step or record.crashes < MOST_CRASHES_AT_ONE_PLACE
