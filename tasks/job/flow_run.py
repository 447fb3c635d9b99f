"""The flow run that this process works on: whose record it is, and how its beginning and end are recorded."""

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from prefect.client.schemas.objects import FlowRun
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from sqlalchemy.exc import IntegrityError

from registry.attempts import oom_kills
from registry.database import Database
from registry.repositories.flow_backed import FlowBackedRepository, Outcome, Record
from registry.repositories.models import ModelRepository
from registry.submissions import uid_of_tags
from registry.tables import Model

DISK_IS_FULL = (errno.ENOSPC, errno.EDQUOT)


class UnknownModel(Exception):
    """The run names a model that does not exist."""


class DiskFull(Exception):
    """What was to be written does not fit on the disk."""


def current_flow_run() -> FlowRun:
    """Return the flow run that this process works on; outside of one it is a programming error."""
    context = FlowRunContext.get()
    assert context is not None
    assert context.flow_run is not None
    return context.flow_run


def claim(
    database: Database,
    repository: type[FlowBackedRepository[Record]],
    tag: str,
    model_id: int,
    make: Callable[[str], Record],
) -> tuple[Record, Model]:
    """Return the record behind which this flow run stands, and its model.

    A run started in Prefect's UI has none yet: `make` is given the run's id and returns it. Raises `UnknownModel`.
    """
    run = current_flow_run()
    flow_run_id = str(run.id)

    def once() -> tuple[Record, Model]:
        with database.transaction() as session:
            model = ModelRepository(session).get(model_id, "use")
            if model is None:
                raise UnknownModel(f"There is no model with the id {model_id}.")
            uid = uid_of_tags(list(run.tags), tag)
            record = repository(session).of_flow_run(flow_run_id, uid, lambda: make(flow_run_id))
            assert record is not None
            return record, model

    try:
        return once()
    except IntegrityError:
        # The API noticed the same run at the same moment, and has made its record.
        return once()


@contextmanager
def recorded_attempt(
    database: Database, repository: type[FlowBackedRepository[Record]], record_id: int
) -> Iterator[None]:
    """Record this process as the one that works on the record, and at the end how that went."""
    with database.transaction() as session:
        records = repository(session)
        records.begin_attempt(records.require(record_id), socket.gethostname(), os.getpid(), oom_kills())
    outcome: Outcome = "completed"
    try:
        yield
    except Pause:
        outcome = "paused"
        raise
    except Exception:
        outcome = "failed"
        raise
    except BaseException:
        outcome = "stopped"
        raise
    finally:
        with database.transaction() as session:
            records = repository(session)
            records.end_attempt(records.require(record_id), outcome)


@contextmanager
def full_disks_named(folder: Path) -> Iterator[None]:
    """Raise `DiskFull`, with what to do, when the block can't write for lack of space on the disk of `folder`."""
    try:
        yield
    except Exception as error:
        # Libraries wrap the system's error: safetensors keeps its text alone.
        number = error.errno if isinstance(error, OSError) else None
        if number not in DISK_IS_FULL and os.strerror(errno.ENOSPC) not in str(error):
            raise
        free = shutil.disk_usage(folder).free / 2**20
        raise DiskFull(
            f"The disk that holds {folder} is full ({free:.0f} MiB free): free some space, then restart the job; "
            "it goes on from its newest checkpoint."
        ) from error
