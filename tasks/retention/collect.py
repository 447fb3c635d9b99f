"""One pass of retention: every rule of the table, one pass at a time on a data folder."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from subprocess import SubprocessError

import httpx
from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from configs.settings import Settings
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.retention import RetentionRepository
from tasks.retention.databases import give_back, sqlite_files
from tasks.retention.mlflow_runs import CleanupFailed
from tasks.retention.rule import Context
from tasks.retention.rules import RULES
from tasks.retention.usage import measure

ENGINE_TIMEOUT_SECONDS = 10.0
WHAT_CAN_FAIL = (OSError, SQLAlchemyError, sqlite3.Error, httpx.HTTPError, SubprocessError, CleanupFailed)


class AlreadyRunning(Exception):
    """Another process removes things from this data folder now."""


@dataclass(frozen=True, slots=True)
class Removed:
    """Something that was removed, or would be."""

    rule: str
    what: str
    count: int
    size: int
    """Bytes on the disk; 0 where that is not known."""


@dataclass(slots=True)
class Report:
    """What a pass has done."""

    removed: list[Removed] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    """Sentences: which rule could not be followed, and why."""
    freed_in_databases: int = 0

    @property
    def count(self) -> int:
        """How many files, rows and runs were removed."""
        return sum(one.count for one in self.removed)

    @property
    def freed_bytes(self) -> int:
        """How much of the disk was freed, as far as it is known."""
        return sum(one.size for one in self.removed) + self.freed_in_databases


def collect(
    settings: Settings, database: Database, *, dry_run: bool = False, now: Callable[[], datetime] = utcnow
) -> Report:
    """Follow every rule, or only say what would go; a rule that fails is reported, and the others are followed.

    Raises `AlreadyRunning`.
    """
    report, started_at = Report(), now()
    with _one_at_a_time(settings):
        context = Context(settings, database, started_at, _loaded(settings))
        for removed in _follow(context, report.failures, dry_run=dry_run):
            report.removed.append(removed)
        if not dry_run:
            report.freed_in_databases = _shrink_databases(context, report.failures)
            record_usage(settings, database)
            with database.transaction() as session:
                retention = RetentionRepository(session)
                retention.record_pass(started_at, report.count, report.freed_bytes, report.failures)
    return report


def record_usage(settings: Settings, database: Database) -> None:
    """Measure what each kind of data takes of the disk, and store it for `/metrics`."""
    usage = measure(settings)
    with database.transaction() as session:
        RetentionRepository(session).record_usage(usage)


def _follow(context: Context, failures: list[str], *, dry_run: bool) -> Iterator[Removed]:
    for rule in RULES:
        days = getattr(context.settings, rule.keep)
        if days is None:
            continue
        try:
            for one in rule.find(context, context.before(days)):
                if dry_run or one.remove():
                    yield Removed(rule.name, one.what, one.count, one.size)
        except WHAT_CAN_FAIL as error:
            failures.append(f"{rule.name}: {str(error) or type(error).__name__}")


def _shrink_databases(context: Context, failures: list[str]) -> int:
    with context.database.reading() as session:
        idle = not RetentionRepository(session).anything_unfinished()
    freed = 0
    for file in sqlite_files(context.settings):
        try:
            freed += give_back(file, idle=idle)
        except sqlite3.Error as error:
            failures.append(f"{file.name}: {error}")
    return freed


def _loaded(settings: Settings) -> frozenset[str] | None:
    """Return the folders that the engine has in memory; None if it is there and does not say."""
    if settings.backend_url is not None:
        return frozenset()  # another server, which has no folders of ours
    try:
        with httpx.Client(timeout=ENGINE_TIMEOUT_SECONDS, trust_env=False) as http:
            models = http.get(f"{settings.engine_url}/health").raise_for_status().json()["models"]
    except httpx.ConnectError:
        return frozenset()
    except httpx.HTTPError:
        return None
    return frozenset(path for one in models for path in (one["weights"], *one["adapters"]))


@contextmanager
def _one_at_a_time(settings: Settings) -> Iterator[None]:
    run_dir = settings.data_dir / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(run_dir / "retention.lock", timeout=0):
            yield
    except Timeout as error:
        raise AlreadyRunning(f"Another process removes things from {settings.data_dir} now.") from error
