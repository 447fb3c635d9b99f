"""The flow run that this process works on: whose record it is, and how its beginning and end are recorded."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.context import FlowRunContext
from prefect.exceptions import Abort, ObjectNotFound, Pause
from sqlalchemy.exc import IntegrityError

from registry.database import Database
from registry.repositories.flow_backed import FlowBackedRepository, LeaseLost, Outcome, Record
from registry.repositories.models import ModelRepository
from registry.submissions import uid_of_tags
from registry.tables import Evaluation, Model, TrainingJob
from tasks.atomic_files import no_space_left
from tasks.job.lease import Lease

POLL_SECONDS = 2.0
DATABASE_PATIENCE_SECONDS = 600.0
"""How long the work of a flow run waits for a database that is away or locked, before the run fails of it."""


class UnknownModel(Exception):
    """The run names a model that does not exist."""


class RunDeleted(Exception):
    """Somebody has deleted the flow run in Prefect: what it was for is not wanted any more."""


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
) -> Iterator[Lease[Record]]:
    """Record this process as the one that works on the record, and at the end how that went; yields its lease.

    A process that has lost it, or whose flow run is gone, leaves by `Abort`: without a word to Prefect, whose state is
    not its own any more.
    """
    lease = Lease(database, repository, record_id)
    outcome: Outcome = "completed"
    try:
        yield lease
    except Pause:
        outcome = "paused"
        raise
    except (LeaseLost, RunDeleted) as error:
        outcome = "stopped"
        if current_flow_run().parent_task_run_id is not None:
            raise  # part of another flow, which fails for it
        raise Abort(str(error)) from error
    except Exception:
        outcome = "failed"
        raise
    except BaseException:
        outcome = "stopped"
        raise
    finally:
        lease.end(outcome)


def require_run(record: TrainingJob | Evaluation) -> None:
    """Raise `RunDeleted` if the record says that it has no flow run: within the transaction that stores the result."""
    if record.flow_run_id is None:
        raise RunDeleted("The flow run was deleted in Prefect.")


class RunWatch:
    """Notices what happens to this process's flow run: by Prefect's own notice of a pause, and a poll every 2 s."""

    def __init__(self, lease: Lease[Any]) -> None:
        context = FlowRunContext.get()
        assert context is not None
        self._lease = lease
        self._request = context.flow_run_suspension_request
        self._flow_run_id = current_flow_run().id
        self._paused: State[Any] | None = None
        self._deleted = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="run watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop watching."""
        self._stop.set()

    def must_leave(self) -> bool:
        """Return whether to save and leave: a pause was asked for, or the run was deleted. Cheap enough for every step.

        Raises `LeaseLost`, after which nothing may be saved.
        """
        self._lease.check()
        return self._deleted or self._paused is not None or self._request.is_requested()

    def check(self) -> None:
        """Raise `RunDeleted` or `LeaseLost` if there is nothing more to do here; cheap enough for every batch."""
        self._lease.check()
        if self._deleted:
            raise RunDeleted("The flow run was deleted in Prefect.")

    def check_now(self) -> None:
        """Ask Prefect first, if it answers: before what can't be taken back."""
        with get_client(sync_client=True) as client, suppress(httpx.HTTPError):
            self._look(client)
        self.check()

    def leave(self) -> None:
        """End the flow as suspended, by raising `Pause`; or as `check` does."""
        self.check()
        self._stop.set()
        state = self._request.get_state() or self._paused
        assert state is not None
        raise Pause(state=state)

    def _poll(self) -> None:
        with get_client(sync_client=True) as client:
            while not self._stop.wait(POLL_SECONDS):
                try:
                    self._look(client)
                except Exception:  # noqa: BLE001 - the server is away: asked again in two seconds
                    self._stop.wait(POLL_SECONDS)
                if self._deleted or self._paused is not None:
                    return

    def _look(self, client: SyncPrefectClient) -> None:
        try:
            state = client.read_flow_run(self._flow_run_id).state
        except ObjectNotFound:
            self._deleted = True
            return
        if state is not None and state.is_paused():
            self._paused = state


@contextmanager
def full_disks_named(folder: Path) -> Iterator[None]:
    """Raise `DiskFull`, with what to do, when the block can't write for lack of space on the disk of `folder`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, DiskFull) or not no_space_left(error):
            raise
        free = shutil.disk_usage(folder).free / 2**20
        raise DiskFull(
            f"The disk that holds {folder} is full ({free:.0f} MiB free): free some space, then restart the job; "
            "it goes on from its newest checkpoint."
        ) from error
