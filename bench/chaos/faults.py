"""Faults of what the platform stands on, each for a while: its database, its disk, its host's name and clock.

Each is begun, lasts, and is undone; kills and everything else go on meanwhile.
"""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

import psutil

from bench.chaos.ledger import Ledger
from bench.chaos.platform import ChaosPlatform

LOCKED_SECONDS = 40.0
FULL_SECONDS = 8.0
POISONED_SECONDS = 15.0
HUNG_SECONDS = 20.0
"""Longer than a controller's lease: another one leads by then."""
OTHER_CLOCK_SECONDS = 20.0
HEALED_SECONDS = 120.0
HOUR = 3600
DISK_BLOCKS = (1024**2, 4096)
DAMAGED_MODEL = "tiny-damaged"

Fault = Callable[[], contextlib.AbstractContextManager[float]]


class Faults:
    """Does one fault at a time, in a thread; which are possible depends on the machine and on the database."""

    def __init__(self, platform: ChaosPlatform, ledger: Ledger) -> None:
        self._platform, self._ledger = platform, ledger
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        on_sqlite = platform.postgresql is None
        self.kinds: dict[str, Fault] = {
            "hang the leading controller": self._hung_controller,
            **({"lock the database for 40 s": self._locked_database} if on_sqlite else {}),
            **({"damage a record of every loop": self._damaged_records} if on_sqlite else {}),
            **({"restart PostgreSQL": self._restarted_postgresql} if not on_sqlite else {}),
            **({"fill the disk": self._full_disk} if platform.small_disk else {}),
            **({"change the host's name": self._other_host_name} if platform.own_host_name else {}),
            **({"set the clock an hour on": self._other_clock} if platform.clock is not None else {}),
        }

    def begin(self, name: str) -> bool:
        """Begin a fault; return False, having done nothing, while another one lasts or the platform is not there."""
        if self._thread is not None and self._thread.is_alive():
            return False
        if self._platform.ended or self._platform.part("api") is None:
            return False
        self._thread = threading.Thread(target=self._do, args=(name,), name=name)
        self._thread.start()
        return True

    def settle(self) -> None:
        """Undo the fault that lasts."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _do(self, name: str) -> None:
        try:
            with self.kinds[name]() as seconds:
                self._ledger.count(name, "done")
                self._over.wait(seconds)
        except (OSError, sqlite3.Error, subprocess.SubprocessError, psutil.Error) as error:
            self._ledger.count(name, "refused", f"({error!r})")
        else:
            self._ledger.say(f"undone: {name}")

    @contextmanager
    def _hung_controller(self) -> Iterator[float]:
        process = self._platform.leader()
        if process is None:
            raise OSError("no controller leads")
        process.suspend()
        try:
            yield HUNG_SECONDS
        finally:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.resume()

    @contextmanager
    def _locked_database(self) -> Iterator[float]:
        with self._database() as connection:
            connection.execute("BEGIN IMMEDIATE")
            yield LOCKED_SECONDS
            connection.execute("ROLLBACK")

    @contextmanager
    def _damaged_records(self) -> Iterator[float]:
        """Give every loop a record that it can't work on, as a hand at the database or a bug would."""
        folder = self._platform.models_dir / DAMAGED_MODEL
        uid = uuid4().hex
        with self._database() as connection:
            connection.executescript(_damage(uid))
        shutil.copytree(self._platform.models_dir / "tiny-llama", folder, dirs_exist_ok=True)
        (folder / "model.safetensors").write_bytes(b"\xff" * 64)
        try:
            yield POISONED_SECONDS
        finally:
            # A locked database or a full disk may be another fault's; what was damaged must be gone before the checks.
            while True:
                with contextlib.suppress(sqlite3.OperationalError), self._database() as connection:
                    connection.executescript(_repair(uid))
                    break
                time.sleep(1)
            shutil.rmtree(folder, ignore_errors=True)
        self._require_healed()

    def _require_healed(self) -> None:
        deadline = time.monotonic() + HEALED_SECONDS
        while self._platform.stuck_loops():
            if time.monotonic() > deadline:
                self._ledger.violation(f"loops are stuck after damaged records: {self._platform.stuck_loops()}")
                return
            if self._over.wait(1):
                return

    @contextmanager
    def _full_disk(self) -> Iterator[float]:
        ballast = self._platform.data_dir / "ballast"
        try:
            with ballast.open("wb") as file:
                for block in DISK_BLOCKS:
                    with contextlib.suppress(OSError):
                        while True:  # what others free meanwhile is taken too
                            os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, block)
            yield FULL_SECONDS
        finally:
            ballast.unlink(missing_ok=True)

    @contextmanager
    def _other_host_name(self) -> Iterator[float]:
        """A container that was made anew has another name; it keeps it."""
        self._platform.set_host_name(f"chaos-{uuid4().hex[:8]}")
        yield 0.0

    @contextmanager
    def _other_clock(self) -> Iterator[float]:
        assert self._platform.clock is not None
        self._platform.clock.set(HOUR)
        try:
            yield OTHER_CLOCK_SECONDS
        finally:
            self._platform.clock.set(0)

    @contextmanager
    def _restarted_postgresql(self) -> Iterator[float]:
        assert self._platform.postgresql is not None
        self._platform.postgresql.stop()
        try:
            yield 3.0
        finally:
            self._platform.postgresql.start()

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        path = self._platform.data_dir / "platform.db"
        connection = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            yield connection
        finally:
            connection.close()


def _damage(uid: str) -> str:
    """Return the statements that put a record that can't be read before every loop; ids below 1 are given to nobody."""
    job = json.dumps(5)  # a recipe is an object
    return f"""
    BEGIN IMMEDIATE;
    INSERT INTO evaluations (id, uid, model_id, eval_name, parameters, status, mlflow_sync_pending, created_at,
        attempt, attempt_step, crashes) VALUES (-1, '{uid}', 1, 'damaged', '{job}', 'PENDING', 0,
        '2026-01-01 00:00:00.000000', 0, 0, 0);
    INSERT INTO evaluations (id, uid, model_id, eval_name, parameters, status, mlflow_sync_pending, mlflow_run_id,
        created_at, attempt, attempt_step, crashes) VALUES (-2, '{uid[::-1]}', 1, 'damaged', '{{}}', 'NONSENSE', 1,
        'none', '2026-01-01 00:00:00.000000', 0, 0, 0);
    INSERT INTO datasets (id, name, uid, source, status, settings, created_at) VALUES (-1, 'damaged', '{uid}',
        'upload', 'VALIDATING', '{job}', '2026-01-01 00:00:00.000000');
    INSERT INTO webhooks (id, name, url, statuses, secret, created_at, updated_at) VALUES (-1, 'damaged', 'nowhere',
        '[]', '', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000');
    INSERT INTO webhook_deliveries (id, webhook_id, uid, event_uid, job_id, job_status, ended_at, attempts,
        next_attempt_at, created_at) VALUES (-1, -1, '{uid}', '{uid}', 1, 'NONSENSE',
        '2026-01-01 00:00:00.000000', 0, '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000');
    INSERT INTO models (id, name, base_model, status, description, created_at, updated_at) VALUES (-1, 'damaged',
        '{DAMAGED_MODEL}', 'LOADING', '', '2026-01-01 00:00:00.000000', '2026-01-01 00:00:00.000000');
    COMMIT;
    """


def _repair(uid: str) -> str:
    return f"""
    BEGIN IMMEDIATE;
    DELETE FROM webhook_deliveries WHERE id = -1;
    DELETE FROM webhooks WHERE id = -1;
    DELETE FROM datasets WHERE id = -1;
    DELETE FROM evaluations WHERE uid IN ('{uid}', '{uid[::-1]}');
    DELETE FROM models WHERE id = -1;
    COMMIT;
    """
