"""Upgrades that end in the middle: killed at a statement or before the commit, in a process of their own."""

import multiprocessing
import os
import signal
from contextlib import suppress
from typing import Any

import sqlalchemy as sa

from registry.database import upgrade

COMMIT = -1
"""The moment after the last statement."""


class Interruption(Exception):
    """The statement that was to be executed is not."""


def count_statements(url: str, to: str) -> int:
    """Upgrade up to the commit, which is refused, and return how many statements that took."""
    counted = 0

    def count(connection: sa.Connection, *_: Any) -> None:
        nonlocal counted
        counted += connection.engine.url == sa.make_url(url)

    def refuse(connection: sa.Connection) -> None:
        if connection.engine.url == sa.make_url(url):
            raise Interruption

    sa.event.listen(sa.Engine, "before_cursor_execute", count)
    sa.event.listen(sa.Engine, "commit", refuse)
    try:
        with suppress(Interruption):
            upgrade(url, to=to)
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", count)
        sa.event.remove(sa.Engine, "commit", refuse)
    return counted


def upgrade_killed(url: str, to: str, moment: int) -> None:
    """Upgrade in a process that is killed at its statement number `moment`, from 0, or at COMMIT."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["registry.database", "tests.registry.interrupted"])
    process = processes.Process(target=_upgrade_and_die, args=(url, to, moment))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL


def _upgrade_and_die(url: str, to: str, moment: int) -> None:
    executed = 0

    def on_statement(connection: sa.Connection, *_: Any) -> None:
        nonlocal executed
        if connection.engine.url == sa.make_url(url):
            if executed == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            executed += 1

    def on_commit(connection: sa.Connection) -> None:
        if connection.engine.url == sa.make_url(url) and moment == COMMIT:
            os.kill(os.getpid(), signal.SIGKILL)

    sa.event.listen(sa.Engine, "before_cursor_execute", on_statement)
    sa.event.listen(sa.Engine, "commit", on_commit)
    upgrade(url, to=to)
