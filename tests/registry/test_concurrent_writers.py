"""Two writers that meet: whoever comes second waits, and goes on from what the first has left.

On SQLite the second waits for the database as a whole, on PostgreSQL for the row.
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.datasets import DatasetRepository
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.flow_backed import Worker
from registry.repositories.idempotency import IdempotencyRepository
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.repositories.webhooks import WebhookRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import Webhook

WAIT_SECONDS = 60
LONG_ENOUGH_TO_PASS = 1.0
"""A writer that nobody holds back is through within this time; a shorter wait only makes the test weaker."""
Write = Callable[[Session], Any]


def meet(
    database: Database, first: Write, second: Write, before_commit: Callable[[], Any] = lambda: None
) -> tuple[Any, Any]:
    """Run `first` up to its commit, `second` beside it, then the commit; return what each returned or raised.

    The second has begun, and is waiting for the first or is through, when the first commits.
    """
    begun, through = threading.Event(), threading.Event()

    def run_second() -> Any:
        begun.set()
        try:
            with database.transaction() as session:
                return second(session)
        finally:
            through.set()

    with ThreadPoolExecutor(1) as pool:
        with database.transaction() as session:
            result = first(session)
            session.flush()
            future: Future[Any] = pool.submit(run_second)
            assert begun.wait(WAIT_SECONDS)
            through.wait(LONG_ENOUGH_TO_PASS)
            before_commit()
        error = future.exception(WAIT_SECONDS)
        return result, error if error is not None else future.result()


@pytest.fixture
def job_id(database):
    with database.transaction() as session:
        return TrainingJobRepository(session).add(job_of_parameters(FinetuneParameters(model_id=1), "run-1")).id


def end(job_id: int, status: str = "COMPLETED") -> Write:
    """The job's end, as each process that observes it records it."""
    moment = utcnow()

    def write(session: Session) -> bool:
        jobs = TrainingJobRepository(session)
        return jobs.record_state(jobs.require(job_id), status, moment)

    return write


def delete_model(session: Session) -> bool:
    models = ModelRepository(session)
    model = models.get(1, "change")
    if model is None or models.users(1):
        return False
    models.remove(model)
    return True


def delete_dataset(session: Session) -> bool:
    datasets = DatasetRepository(session)
    dataset = datasets.get(1, "change")
    if dataset is None or datasets.users(1):
        return False
    datasets.remove(dataset)
    return True


def create_job(session: Session) -> bool:
    if ModelRepository(session).get(1, "use") is None or DatasetRepository(session).get(1, "use") is None:
        return False
    TrainingJobRepository(session).add(job_of_parameters(FinetuneParameters(model_id=1, dataset_id=1)))
    return True


def create_evaluation(session: Session) -> bool:
    if ModelRepository(session).get(1, "use") is None or DatasetRepository(session).get(1, "use") is None:
        return False
    parameters = EvaluationParameters(model_id=1, dataset_id=1)
    EvaluationRepository(session).add(evaluation_of_parameters(parameters))
    return True


@pytest.mark.parametrize("delete", [delete_model, delete_dataset])
@pytest.mark.parametrize("create", [create_job, create_evaluation])
@pytest.mark.parametrize("order", ["delete first", "create first"])
def test_what_is_deleted_is_not_named_and_what_is_named_is_not_deleted(database, delete, create, order):
    pair = (delete, create) if order == "delete first" else (create, delete)
    assert meet(database, *pair) == (True, False)


def test_two_jobs_of_one_model_are_created_at_once(database):
    assert meet(database, create_job, create_job) == (True, True)
    with database.reading() as session:
        assert len(TrainingJobRepository(session).unsubmitted()) == 2


def test_an_end_that_two_processes_see_is_told_once(database, job_id):
    with database.transaction() as session:
        webhook = Webhook(name="mine", url="https://public.test/", statuses=["COMPLETED"], secret="whsec_AAAA")
        webhook_id = WebhookRepository(session).add(webhook).id
    assert meet(database, end(job_id), end(job_id)) == (True, False)
    with database.reading() as session:
        assert len(WebhookRepository(session).newest_deliveries(webhook_id, 9, None)) == 1
        events = TrainingJobRepository(session).events(job_id)
        assert [event.data["status"] for event in events] == ["COMPLETED"]


def test_a_restart_and_an_older_end_leave_the_newer_state(database, job_id):
    old_end = end(job_id, "FAILED")
    restart = end(job_id, "PENDING")
    assert meet(database, restart, old_end) == (False, False)
    with database.reading() as session:
        assert TrainingJobRepository(session).require(job_id).status == "PENDING"


def test_a_crash_counted_beside_a_restart_by_hand_is_counted_from_nought(database, job_id):
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.begin_attempt(jobs.require(job_id), Worker("host", 1))
        jobs.count_crash(jobs.require(job_id))

    def forgive(session: Session) -> None:
        TrainingJobRepository(session).require(job_id, "change").crashes = 0

    def crash(session: Session) -> int:
        jobs = TrainingJobRepository(session)
        return jobs.count_crash(jobs.require(job_id))

    assert meet(database, forgive, crash) == (None, 1)


def test_two_processes_that_claim_a_run_have_one_record(database):
    with database.transaction() as session:
        job = TrainingJobRepository(session).add(job_of_parameters(FinetuneParameters(model_id=1)))
        job_id, uid = job.id, job.uid

    def claim(session: Session) -> int:
        return TrainingJobRepository(session).of_flow_run("run-1", uid, lambda: pytest.fail("it is there")).id

    assert meet(database, claim, claim) == (job_id, job_id)

    def claim_a_copy(session: Session) -> int:
        jobs = TrainingJobRepository(session)
        parameters = FinetuneParameters(model_id=1)
        return jobs.of_flow_run("run-2", uid, lambda: job_of_parameters(parameters, "run-2")).id

    first, second = meet(database, claim_a_copy, claim_a_copy)
    assert first != job_id
    assert second == first or isinstance(second, IntegrityError)


def test_a_key_makes_one_thing(database):
    def create(session: Session) -> str:
        keys = IdempotencyRepository(session)
        if keys.get("POST /api/training", "key") is not None:
            return "known"
        create_job(session)
        keys.add("POST /api/training", "key", "hash", 1, {})
        return "made"

    first, second = meet(database, create, create)
    # On PostgreSQL the second finds out when it writes its answer down, and `create_once` reads the first one's then.
    assert (first, second) == ("made", "known") or isinstance(second, IntegrityError)
    with database.reading() as session:
        assert len(TrainingJobRepository(session).unsubmitted()) == 1


def test_a_job_is_not_deleted_under_what_reports_on_it(database, job_id):
    def report(session: Session) -> bool:
        TrainingJobRepository(session).log(job_id, "a line")
        return True

    def remove(session: Session) -> bool:
        jobs = TrainingJobRepository(session)
        jobs.remove(jobs.require(job_id, "change"))
        return True

    assert meet(database, report, remove) == (True, True)
    with pytest.raises(LookupError), database.transaction() as session:
        report(session)
    with database.transaction() as session:
        assert TrainingJobRepository(session).remove_events()


def test_a_webhook_deleted_at_a_jobs_end_gets_nothing(database, job_id):
    with database.transaction() as session:
        webhook = Webhook(name="mine", url="https://public.test/", statuses=["COMPLETED"], secret="whsec_AAAA")
        webhook_id = WebhookRepository(session).add(webhook).id

    def remove(session: Session) -> None:
        webhooks = WebhookRepository(session)
        webhooks.remove(webhooks.get(webhook_id))

    assert meet(database, remove, end(job_id)) == (None, True)
    with database.reading() as session:
        assert WebhookRepository(session).due(utcnow()) == []


def test_a_reader_that_goes_on_from_the_last_id_misses_no_event(database, job_id):
    """Of two writers the one with the lower ids is seen first, so that nobody has gone past them."""
    seen: list[list[str]] = []

    def read() -> None:
        with database.reading() as session:
            jobs = TrainingJobRepository(session)
            seen.append([event.message for event in jobs.events(job_id)])

    def first(session: Session) -> None:
        TrainingJobRepository(session).log(job_id, "first")
        session.flush()

    def second(session: Session) -> None:
        TrainingJobRepository(session).log(job_id, "second")

    meet(database, first, second, before_commit=read)
    read()
    assert seen[-1] == ["first", "second"]
    # Whatever was read before is the beginning of what was read last: nothing has appeared before it.
    assert all(earlier == seen[-1][: len(earlier)] for earlier in seen)


def test_many_writers_and_a_reader_with_a_cursor(database, job_id):
    """The same with eight writers at once: the reader, asking for what comes after the last id, gets every event."""
    lines = 30

    def write(writer: int) -> None:
        for number in range(lines):
            with database.transaction() as session:
                TrainingJobRepository(session).log(job_id, f"{writer}-{number}")

    read: list[str] = []
    after = 0
    with ThreadPoolExecutor(8) as pool:
        writers = [pool.submit(write, writer) for writer in range(8)]
        done = False
        while not done:
            # Asked before the reading: what was written by then is read below.
            done = all(writer.done() for writer in writers)
            with database.reading() as session:
                for event in TrainingJobRepository(session).events(job_id, after):
                    after = event.id
                    read.append(event.message)
    assert sorted(read) == sorted(f"{writer}-{number}" for writer in range(8) for number in range(lines))
