"""One controller leads; another takes over when it has left, died or hangs, and never while it lives."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from api.controller import leadership
from api.controller.leadership import LEASE_SECONDS, Leadership
from registry.database import Database
from registry.repositories.controller import ControllerRepository
from registry.tables import ControllerLease


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock that leaderships measure by: it goes on when the test says so."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_the_first_leads_and_the_second_waits_as_long_as_it_renews(database, clock):
    first, second = Leadership(database), Leadership(database)
    assert first.keep_or_take()
    for _ in range(20):
        assert not second.keep_or_take()
        clock[0] += leadership.RENEW_SECONDS
        assert first.keep_or_take()
    assert first.leads
    assert not second.leads


def test_one_that_leaves_in_order_is_followed_at_once(database, clock):
    first, second = Leadership(database), Leadership(database)
    assert first.keep_or_take()
    first.release()
    assert not first.leads
    assert second.keep_or_take()


def test_one_that_hangs_is_followed_after_its_lease_and_finds_its_term_over(database, clock):
    first, second = Leadership(database), Leadership(database)
    assert first.keep_or_take()
    assert not second.keep_or_take()
    clock[0] += LEASE_SECONDS - 0.1
    assert not second.keep_or_take()
    assert not first.leads  # it has stopped by itself before another one may begin
    clock[0] += 0.2
    assert second.keep_or_take()
    assert not first.keep_or_take()
    assert not first.leads
    assert second.leads
    with database.reading() as session:
        assert ControllerRepository(session).lease().term == 2


def test_a_wall_clock_that_jumps_deposes_nobody(database, clock):
    first, second = Leadership(database), Leadership(database)
    assert first.keep_or_take()
    for hours in (1, -1, 24 * 365):
        with database.transaction() as session:
            lease = session.get(ControllerLease, "leader")
            lease.renewed_at = lease.renewed_at.replace(year=lease.renewed_at.year + (1 if hours > 0 else -1))
        assert not second.keep_or_take()
        assert first.keep_or_take()


def test_many_that_begin_at_the_same_moment_make_one_leader(database):
    databases = [Database(database.url) for _ in range(6)]
    candidates = [Leadership(one) for one in databases]
    barrier, leaders = threading.Barrier(len(candidates)), []

    def begin(candidate):
        barrier.wait()
        if candidate.keep_or_take():
            leaders.append(candidate)

    threads = [threading.Thread(target=begin, args=(candidate,)) for candidate in candidates]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for one in databases:
        one.close()
    assert len(leaders) == 1


LEADER = """
import sys, time
from api.controller.leadership import Leadership
from registry.database import Database
leadership = Leadership(Database(sys.argv[1]))
assert leadership.keep_or_take()
print("leads", flush=True)
while True:
    time.sleep(0.2)
    leadership.keep_or_take()
"""


def test_one_that_is_killed_on_this_machine_is_followed_at_once(database):
    process = subprocess.Popen([sys.executable, "-c", LEADER, database.url], stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == b"leads\n"
        second = Leadership(database)
        assert not second.keep_or_take()
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = time.monotonic()
        assert second.keep_or_take()
        assert time.monotonic() - before < LEASE_SECONDS
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_the_holder_is_told_by_host_and_process(database):
    first = Leadership(database)
    first.keep_or_take()
    with database.reading() as session:
        holder = ControllerRepository(session).lease().holder
    assert str(os.getpid()) in holder.split(":")
