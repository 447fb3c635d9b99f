"""What to do with a run whose process has died: let it go on from its newest checkpoint, unless that is hopeless."""

from api.orchestration.prefect_client import FlowRun
from registry.attempts import attempt_is_alive, killed_for_memory_since
from registry.tables import FlowBacked, TrainingJob

MOST_CRASHES_AT_ONE_PLACE = 3
# Prefect's worker may still be tidying up after a crash; what it writes last must not undo the retry.
SETTLE_SECONDS = 5.0
# A run that Prefect believes to be starting or running has had this long to record its process.
CLAIM_SECONDS = 30.0
# How Prefect says that the process ended by SIGKILL, which is what the kernel sends when memory runs out.
KILLED = "-9"


def has_died(record: FlowBacked, run: FlowRun, seconds: float) -> bool:
    """Return whether no process works on the run, nor will, though it has not ended: it crashed, or its worker died.

    `seconds` is how long it has been seen in its state.
    """
    if run.state_type == "CRASHED":
        return seconds > SETTLE_SECONDS
    waits = run.state_type in ("PENDING", "RUNNING", "CANCELLING") and seconds > CLAIM_SECONDS
    return waits and not attempt_is_alive(record)


def objection(record: FlowBacked, run: FlowRun) -> str | None:
    """Return why another attempt at a run that has died would be in vain, and what to change; None if it would not."""
    if run.called:
        return f"The flow that it was a part of died ({cause(run)}); when that runs again, it evaluates anew."
    hopeless = record.crash_step == record.attempt_step and record.crashes >= MOST_CRASHES_AT_ONE_PLACE
    if _killed_for_memory(record, run) and (hopeless or not _takes_less_next_time(record)):
        return _out_of_memory(record)
    if hopeless:
        return f"Its process died {record.crashes + 1} times in a row from the same place; the last time: {cause(run)}"
    return None


def cause(run: FlowRun) -> str:
    """Return how Prefect says that a run's process ended."""
    return run.state_message or "its process is gone"


def _killed_for_memory(record: FlowBacked, run: FlowRun) -> bool:
    """Return whether the kernel has killed for memory since the attempt began, and the attempt ended like that."""
    return killed_for_memory_since(record) and run.state_type == "CRASHED" and KILLED in cause(run)


def _takes_less_next_time(record: FlowBacked) -> bool:
    """Return whether the next attempt would go on with fewer rows at once; the trainer says when there are no fewer."""
    return isinstance(record, TrainingJob) and record.recipe.get("micro_batch") == "auto"


def _out_of_memory(record: FlowBacked) -> str:
    sentence = "The kernel killed its process for lack of memory: "
    if not isinstance(record, TrainingJob):
        return sentence + "free some, or evaluate while nothing is trained."
    recipe = record.recipe
    return sentence + (
        f"lower batch_size (now {recipe['batch_size']}; raise gradient_accumulation by the same factor for the same "
        f"result) or max_seq_length (now {recipe['max_seq_length']}) in a new job, or free memory and restart this one."
    )
