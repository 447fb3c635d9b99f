"""What wakes the controller's loops: commits of others, and not its own lease."""

import threading

from sqlalchemy import text

from registry.changes import changes_of
from registry.database import Database

COUNT = text("UPDATE counters SET value = value + 1")


def test_a_commit_of_another_is_told_once_and_an_own_one_is_not(database):
    changes = changes_of(database)
    changes.poll()
    quiet = [changes.poll() for _ in range(3)]
    with database.transaction() as session:
        session.execute(COUNT)
    told = [changes.poll(), changes.poll()]
    with changes.transaction() as session:
        session.execute(COUNT)
    own = changes.poll()
    with database.reading() as session:
        assert session.scalar(text("SELECT max(value) FROM counters")) == 2
    if database.url.startswith("sqlite"):  # PostgreSQL counts those of others on the same server, and one's own
        assert (quiet, told, own) == ([False] * 3, [True, False], False)
    else:
        assert told[0]
    changes.close()


def test_what_was_committed_during_an_own_transaction_is_told_after_it(database):
    changes = changes_of(database)
    changes.poll()
    began, go_on = threading.Event(), threading.Event()

    def own():
        with changes.transaction():
            began.set()
            assert go_on.wait(20)

    thread = threading.Thread(target=own)
    thread.start()
    assert began.wait(20)
    other = Database(database.url)
    with other.transaction() as session:
        session.execute(COUNT)
    if database.url.startswith("sqlite"):
        assert not changes.poll()  # nor does it wait
    go_on.set()
    thread.join()
    assert changes.poll() or not database.url.startswith("sqlite")
    other.close()
    changes.close()
