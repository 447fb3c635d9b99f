"""No query of a repository reads what grows with history: what each asks of the database is explained, on both kinds.

Every method of every repository has a case here, or is named as one that reads nothing that grows.
"""

import inspect
import re
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import event, func, insert, select, text
from sqlalchemy.orm import Session

from configs.recipe import METRICS, EvaluationParameters, FinetuneParameters
from registry.clock import utcnow
from registry.database import Database, upgrade
from registry.repositories.datasets import DatasetRepository
from registry.repositories.evaluations import EvaluationRepository, numbers_hash
from registry.repositories.flow_backed import Worker
from registry.repositories.idempotency import IdempotencyRepository
from registry.repositories.models import ModelRepository
from registry.repositories.paging import Filters
from registry.repositories.promotion_tests import PromotionTestRepository
from registry.repositories.responses import ConversationRepository, ResponseRepository
from registry.repositories.statistics import GENERATIONS, StatisticsRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.repositories.webhooks import WebhookRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import (
    Conversation,
    Dataset,
    Evaluation,
    IdempotencyKey,
    JobEvent,
    JobLabel,
    Model,
    PromotionTest,
    StoredItem,
    StoredResponse,
    StoredResponseEvents,
    TrainingJob,
    Webhook,
    WebhookDelivery,
)

ROWS = 3000
RECENT = utcnow() - timedelta(minutes=5)
PARAMETERS = EvaluationParameters(model_id=1)
GROWING = (
    "training_jobs",
    "evaluations",
    "models",
    "datasets",
    "job_events",
    "job_labels",
    "webhook_deliveries",
    "promotion_tests",
    "responses",
    "conversations",
    "response_items",
    "response_events",
)
Case = Callable[[Session], Any]


def _jobs(use: Callable[[TrainingJobRepository], Any]) -> Case:
    return lambda session: use(TrainingJobRepository(session))


def _evaluations(use: Callable[[EvaluationRepository], Any]) -> Case:
    return lambda session: use(EvaluationRepository(session))


def _models(use: Callable[[ModelRepository], Any]) -> Case:
    return lambda session: use(ModelRepository(session))


def _datasets(use: Callable[[DatasetRepository], Any]) -> Case:
    return lambda session: use(DatasetRepository(session))


def _webhooks(use: Callable[[WebhookRepository], Any]) -> Case:
    return lambda session: use(WebhookRepository(session))


def _tests(use: Callable[[PromotionTestRepository], Any]) -> Case:
    return lambda session: use(PromotionTestRepository(session))


def _responses(use: Callable[[ResponseRepository], Any]) -> Case:
    return lambda session: use(ResponseRepository(session))


def _conversations(use: Callable[[ConversationRepository], Any]) -> Case:
    return lambda session: use(ConversationRepository(session))


def _promotion_test(number: int) -> dict[str, Any]:
    return {
        "champion_id": 1,
        "challenger_id": number,
        "dataset_id": 1,
        "number": 1,
        "metric": "perplexity",
        "champion_evaluation_id": number - 1,
        "challenger_evaluation_id": number,
        "rows": 32,
        "alpha": 0.03,
    }


def _list(repository: Any, asked: Filters, newest: bool, session: Session) -> Any:
    return repository(session).list(20, 1500, asked, newest_first=newest)


def _remove_events(session: Session) -> None:
    jobs = TrainingJobRepository(session)
    jobs.remove(jobs.require(7))
    session.flush()
    jobs.remove_events()


def _lists(repository: Any, table: str, *, of_model: bool) -> dict[str, Case]:
    """Return every way to ask for a list; each filter alone, as an index serves one."""
    filters = {
        "all": Filters(),
        "status": Filters(status="RUNNING"),
        "name": Filters(name="name 7"),
        "created_after": Filters(created_after=RECENT),
    }
    if of_model:
        filters["model_id"] = Filters(model_id=2)
    return {
        f"{table}.list {name} {order}": partial(_list, repository, asked, newest)
        for name, asked in filters.items()
        for order, newest in (("asc", False), ("desc", True))
    }


def _held(repository: Any) -> None:
    record = repository.require(7)
    repository.begin_attempt(record, Worker("host", 1))
    repository.session.flush()
    repository.held(7, record.attempt)


def _of_flows(repository: Any, table: str) -> dict[str, Case]:
    """Return the cases of what training jobs and evaluations share."""
    return {
        f"{table}.get": lambda session: repository(session).get(7, "change"),
        f"{table}.require": lambda session: repository(session).require(7),
        f"{table}.lock": lambda session: repository(session).lock(repository(session).require(7)),
        f"{table}.by_uid": lambda session: repository(session).by_uid("7"),
        f"{table}.by_flow_run": lambda session: repository(session).by_flow_run("7"),
        f"{table}.of_flow_run": lambda session: repository(session).of_flow_run("new", "7", lambda: None),
        f"{table}.unsubmitted": lambda session: repository(session).unsubmitted(),
        f"{table}.locked": lambda session: repository(session).locked(7),
        f"{table}.held": lambda session: _held(repository(session)),
        f"{table}.record_run_deleted": lambda session: repository(session).record_run_deleted("7", "deployment"),
        f"{table}.submit_again": lambda session: repository(session).submit_again(repository(session).require(7)),
        f"{table}.under_way": lambda session: repository(session).under_way(),
        f"{table}.unfinished": lambda session: repository(session).unfinished(),
        f"{table}.pending_mlflow_sync": lambda session: repository(session).pending_mlflow_sync(),
        f"{table}.mark_synced": lambda session: repository(session).mark_synced(7, "COMPLETED"),
        f"{table}.link_mlflow_run": lambda session: repository(session).link_mlflow_run(
            repository(session).require(7), "m"
        ),
        f"{table}.record_state": lambda session: repository(session).record_state(
            repository(session).require(7), "CANCELLED", utcnow()
        ),
        f"{table}.begin_attempt": lambda session: repository(session).begin_attempt(
            repository(session).require(7), Worker("host", 1)
        ),
        f"{table}.end_attempt": lambda session: repository(session).end_attempt(
            repository(session).require(7), "completed"
        ),
        f"{table}.count_crash": lambda session: repository(session).count_crash(repository(session).require(7)),
        **_lists(repository, table, of_model=True),
    }


CASES: dict[str, Case] = {
    **_of_flows(TrainingJobRepository, "TrainingJobRepository"),
    "TrainingJobRepository.add": _jobs(lambda jobs: jobs.add(job_of_parameters(FinetuneParameters(model_id=1)))),
    "TrainingJobRepository.add_events": _jobs(lambda jobs: jobs.add_events(7, [("step", {"step": 9, "loss": 1.0})])),
    "TrainingJobRepository.log": _jobs(lambda jobs: jobs.log(7, "a line")),
    "TrainingJobRepository.record_progress": _jobs(lambda jobs: jobs.record_progress(7, {"step": 3})),
    "TrainingJobRepository.log_lines": _jobs(lambda jobs: jobs.log_lines(7)),
    "TrainingJobRepository.events": _jobs(lambda jobs: jobs.events(7, 3)),
    "TrainingJobRepository.newest_events": _jobs(lambda jobs: jobs.newest_events(7, 900, 20)),
    "TrainingJobRepository.measured": _jobs(lambda jobs: list(jobs.measured(7))),
    "TrainingJobRepository.results_bytes": _jobs(lambda jobs: jobs.results_bytes(jobs.require(7))),
    "TrainingJobRepository.newest": _jobs(lambda jobs: jobs.newest(20, 900)),
    "TrainingJobRepository.newest unlabelled": _jobs(lambda jobs: jobs.newest(20, 900, unlabelled=True)),
    "TrainingJobRepository.newest one label": _jobs(lambda jobs: jobs.newest(20, 900, {"team": "a"})),
    "TrainingJobRepository.newest two labels": _jobs(lambda jobs: jobs.newest(20, None, {"team": "a", "run": "7"})),
    "TrainingJobRepository.ended": _jobs(lambda jobs: jobs.ended(20, 900, newest_first=True)),
    "TrainingJobRepository.last_event_step": _jobs(lambda jobs: jobs.last_event_step(7, "step")),
    "TrainingJobRepository.memory_plan": _jobs(lambda jobs: jobs.memory_plan(7)),
    "TrainingJobRepository.attempts": _jobs(lambda jobs: jobs.attempts(7)),
    "TrainingJobRepository.was_killed_for_memory": _jobs(lambda jobs: jobs.was_killed_for_memory(jobs.require(7))),
    "TrainingJobRepository.of_evaluation": _jobs(lambda jobs: jobs.of_evaluation(7)),
    "TrainingJobRepository.another_runs": _jobs(lambda jobs: jobs.another_runs(7)),
    "TrainingJobRepository.queue_position": _jobs(lambda jobs: jobs.queue_position(jobs.require(ROWS))),
    "TrainingJobRepository.remove": _jobs(lambda jobs: jobs.remove(jobs.require(7))),
    "TrainingJobRepository.remove_events": _remove_events,
    **_of_flows(EvaluationRepository, "EvaluationRepository"),
    "EvaluationRepository.add": _evaluations(lambda them: them.add(evaluation_of_parameters(PARAMETERS))),
    "EvaluationRepository.repeated": _evaluations(lambda them: them.repeated(PARAMETERS)),
    "EvaluationRepository.of_model": _evaluations(lambda them: them.of_model(2)),
    "EvaluationRepository.withdraw": _evaluations(lambda them: them.withdraw(ROWS)),
    "EvaluationRepository.remove": _evaluations(lambda them: them.remove(them.require(7))),
    "EvaluationRepository.record_progress": _evaluations(lambda them: them.record_progress(7, 1, 2)),
    "EvaluationRepository.record_metrics": _evaluations(
        lambda them: them.record_metrics(them.require(7), dict.fromkeys(METRICS, 1.0), dict.fromkeys(METRICS))
    ),
    **_lists(ModelRepository, "ModelRepository", of_model=False),
    "ModelRepository.get": _models(lambda models: models.get(7, "use")),
    "ModelRepository.by_ids": _models(lambda models: models.by_ids([7, 8])),
    "ModelRepository.remove": _models(lambda models: models.remove(models.get(7))),
    "ModelRepository.users": _models(lambda models: models.users(2)),
    "ModelRepository.add": _models(lambda models: models.add(Model(name="n", base_model="b", status="LOADING"))),
    "ModelRepository.of_job": _models(lambda models: models.of_job(7)),
    "ModelRepository.base_of_name": _models(lambda models: models.base_of_name("gpt2")),
    "ModelRepository.lineage": _models(lambda models: models.lineage(models.get(7))),
    "ModelRepository.newest_trained": _models(lambda models: models.newest_trained("base 1")),
    "ModelRepository.availability": _models(lambda models: models.availability()),
    "ModelRepository.request_fetch": _models(lambda models: models.request_fetch("gpt2")),
    "ModelRepository.wanted_from_hub": _models(lambda models: models.wanted_from_hub()),
    "ModelRepository.end_fetch": _models(lambda models: models.end_fetch("gpt2")),
    "ModelRepository.set_availability": _models(lambda models: models.set_availability("gpt2", "LOADING", None, "1M")),
    **_lists(DatasetRepository, "DatasetRepository", of_model=False),
    "DatasetRepository.get": _datasets(lambda datasets: datasets.get(7, "use")),
    "DatasetRepository.add": _datasets(
        lambda datasets: datasets.add(Dataset(name="n", uid="new", source="upload", status="READY", settings={}))
    ),
    "DatasetRepository.unchecked": _datasets(lambda datasets: datasets.unchecked()),
    "DatasetRepository.users": _datasets(lambda datasets: datasets.users(7)),
    "DatasetRepository.shared": _datasets(lambda datasets: datasets.shared(datasets.get(7))),
    "DatasetRepository.remove": _datasets(lambda datasets: datasets.remove(datasets.get(7))),
    "WebhookRepository.get": _webhooks(lambda webhooks: webhooks.get(1, "change")),
    "WebhookRepository.newest": _webhooks(lambda webhooks: webhooks.newest(20, None)),
    "WebhookRepository.add": _webhooks(
        lambda webhooks: webhooks.add(Webhook(name="n", url="https://public.test/", statuses=[], secret="s"))
    ),
    "WebhookRepository.remove": _webhooks(lambda webhooks: webhooks.remove(webhooks.get(2))),
    "WebhookRepository.queue": _webhooks(lambda webhooks: webhooks.queue(7, "FAILED", utcnow())),
    "WebhookRepository.due": _webhooks(lambda webhooks: webhooks.due(utcnow())),
    "WebhookRepository.begin_attempt": _webhooks(lambda webhooks: webhooks.begin_attempt(7, 0, utcnow())),
    "WebhookRepository.end_attempt": _webhooks(lambda webhooks: webhooks.end_attempt(7, 200, None, is_last=False)),
    "WebhookRepository.newest_deliveries": _webhooks(lambda webhooks: webhooks.newest_deliveries(1, 20, 900)),
    "PromotionTestRepository.of_evaluations": _tests(lambda tests: tests.of_evaluations("perplexity", (6, 7))),
    "PromotionTestRepository.next_number": _tests(lambda tests: tests.next_number(1, 7, 1)),
    "PromotionTestRepository.add": _tests(lambda tests: tests.add(PromotionTest(**_promotion_test(ROWS + 1)))),
    "ResponseRepository.get": _responses(lambda them: them.get("resp_7")),
    "ResponseRepository.add": _responses(
        lambda them: them.add(StoredResponse(uid="new", status="completed", body={}), [{"id": "a"}], [])
    ),
    "ResponseRepository.items": _responses(lambda them: them.items(7, is_output=True)),
    "ResponseRepository.chain": _responses(lambda them: them.chain("resp_7")),
    "ResponseRepository.use": _responses(lambda them: them.use([them.get("resp_7")])),
    "ResponseRepository.item": _responses(lambda them: them.item("msg_7")),
    "ResponseRepository.seen": _responses(lambda them: them.seen(7)),
    "ResponseRepository.begin": _responses(lambda them: them.begin(7)),
    "ResponseRepository.end": _responses(lambda them: them.end(7, "completed", {}, [])),
    "ResponseRepository.lose": _responses(lambda them: them.lose(them.get("resp_7"), {}, utcnow())),
    "ResponseRepository.add_events": _responses(lambda them: them.add_events(7, [{}])),
    "ResponseRepository.events": _responses(lambda them: them.events(7, 5)),
    "ResponseRepository.remove": _responses(lambda them: them.remove(them.get("resp_7"))),
    "ConversationRepository.get": _conversations(lambda them: them.get("conv_7")),
    "ConversationRepository.add": _conversations(lambda them: them.add(Conversation(uid="new", labels={}))),
    "ConversationRepository.items": _conversations(lambda them: them.items(7)),
    "ConversationRepository.item": _conversations(lambda them: them.item(7, "msg_7")),
    "ConversationRepository.append": _conversations(lambda them: them.append(them.get("conv_7"), [{"id": "a"}])),
    "ConversationRepository.remove_item": _conversations(lambda them: them.remove_item(them.item(7, "msg_7"))),
    "ConversationRepository.remove": _conversations(lambda them: them.remove(them.get("conv_7"))),
    "IdempotencyRepository.get": lambda session: IdempotencyRepository(session).get("POST /api/training", "7"),
    "IdempotencyRepository.add": lambda session: IdempotencyRepository(session).add("POST /a", "new", "h", 7, {}),
    "StatisticsRepository.counts": lambda session: StatisticsRepository(session).counts(),
    "StatisticsRepository.by_status": lambda session: StatisticsRepository(session).by_status(),
    "StatisticsRepository.fold_counts": lambda session: StatisticsRepository(session).fold_counts(),
    "StatisticsRepository.counted": lambda session: StatisticsRepository(session).counted(),
    "StatisticsRepository.count": lambda session: StatisticsRepository(session).count({GENERATIONS: 1}),
}
AT_A_PERSONS_WORD = {"ModelRepository.first_base_of", "ModelRepository.registered_model_of"}
"""They look through the models that jobs have made, once for a promotion and once at a job's end."""

REPOSITORIES = (
    TrainingJobRepository,
    EvaluationRepository,
    ModelRepository,
    DatasetRepository,
    WebhookRepository,
    PromotionTestRepository,
    IdempotencyRepository,
    StatisticsRepository,
    ResponseRepository,
    ConversationRepository,
)


def test_every_method_of_every_repository_has_a_case():
    methods = {
        f"{repository.__name__}.{name}"
        for repository in REPOSITORIES
        for name, _ in inspect.getmembers(repository, inspect.isfunction)
        if not name.startswith("_")
    }
    assert {name.partition(" ")[0] for name in CASES} | AT_A_PERSONS_WORD == methods


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request, tmp_path_factory):
    """A database with so many rows that a planner takes an index where there is one, and its statistics."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path_factory.mktemp('plans') / 'platform.db'}"
    else:
        url = request.getfixturevalue("new_postgresql_database")()
    upgrade(url)
    database = Database(url)
    _fill(database)
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("ANALYZE"))
    yield database
    database.close()


def _fill(database: Database) -> None:
    now = utcnow()
    recipe, asked = job_of_parameters(FinetuneParameters(model_id=1)).recipe, evaluation_of_parameters(PARAMETERS)
    old, numbers = now - timedelta(days=1), range(1, ROWS + 1)

    def flow(number: int) -> dict[str, Any]:
        # The last ten are at work, or wait.
        done = number <= ROWS - 10
        return {
            "uid": str(number),
            "flow_run_id": str(number) if number <= ROWS - 2 else None,
            "status": "COMPLETED" if done else ("RUNNING" if number <= ROWS - 5 else "PENDING"),
            "mlflow_sync_pending": not done,
            "mlflow_run_id": str(number),
            "model_id": number % 50 + 1,
            "created_at": old if done else now,
        }

    with database.transaction() as session:
        models = [{"name": f"name {n}", "base_model": f"base {n % 10}", "status": "AVAILABLE"} for n in numbers]
        session.execute(insert(Model), [{**model, "created_at": old} for model in models])
        jobs = [{**flow(n), "job_name": f"name {n}", "recipe": recipe, "labels": {"team": "a"}} for n in numbers]
        session.execute(insert(TrainingJob), jobs)
        labels = [{"key": k, "value": v, "job_id": n} for n in numbers for k, v in (("team", "a"), ("run", str(n)))]
        session.execute(insert(JobLabel), labels)
        same = {"parameters": asked.parameters}
        hashes = [numbers_hash(asked.parameters) if n % 100 == 0 else str(n) for n in numbers]
        evaluations = [
            {**flow(n), **same, "eval_name": f"name {n}", "numbers_hash": hashed}
            for n, hashed in zip(numbers, hashes, strict=True)
        ]
        session.execute(insert(Evaluation), evaluations)
        datasets = [
            {"name": f"name {n}", "uid": str(n), "source": "upload", "status": "READY", "settings": {}}
            | {"content_hash": str(n), "held_out_dataset_id": n if n % 2 else None, "created_at": old}
            for n in numbers
        ]
        session.execute(insert(Dataset), datasets)
        session.execute(insert(PromotionTest), [_promotion_test(n) for n in numbers])
        kinds = ("log", "step", "state", "evaluation")
        events = [{"job_id": n % 300 + 1, "kind": kinds[n % 4], "message": "", "data": {"step": 1}} for n in numbers]
        session.execute(insert(JobEvent), events)
        webhook = {"name": "mine", "url": "https://public.test/", "statuses": ["FAILED"], "secret": "s"}
        session.execute(insert(Webhook), [webhook, webhook])
        deliveries = [
            {
                "webhook_id": 2 if n % 300 == 0 else 1,
                "uid": str(n),
                "event_uid": str(n),
                "job_id": n,
                "job_status": "FAILED",
            }
            | {"ended_at": old, "next_attempt_at": now if n > ROWS - 3 else None}
            for n in numbers
        ]
        session.execute(insert(WebhookDelivery), deliveries)
        made = {"status": "completed", "body": {}}
        session.execute(insert(StoredResponse), [{**made, "uid": f"resp_{n}"} for n in numbers])
        session.execute(insert(Conversation), [{"uid": f"conv_{n}", "labels": {}} for n in numbers])
        items = [{"uid": f"msg_{n}", "response_id": n, "conversation_id": n, "item": {}} for n in numbers]
        session.execute(insert(StoredItem), items)
        session.execute(insert(StoredResponseEvents), [{"response_id": n, "events": []} for n in numbers])
        answer = {"scope": "POST /api/training", "body_hash": "h", "response": {}}
        session.execute(insert(IdempotencyKey), [{**answer, "key": str(n), "resource_id": n} for n in numbers])


def plans_of(database: Database, case: Case) -> list[tuple[str, str]]:
    """Return what the case asks of the database, each statement with the database's plan of it."""
    asked: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        asked.append((statement, parameters[0] if many and isinstance(parameters, list) else parameters))

    with database.reading() as session:
        event.listen(database.engine, "before_cursor_execute", note)
        try:
            case(session)
            session.flush()
        finally:
            event.remove(database.engine, "before_cursor_execute", note)
        explain = "EXPLAIN QUERY PLAN " if database.engine.dialect.name == "sqlite" else "EXPLAIN "
        connection = session.connection()
        plans = []
        for statement, parameters in asked:
            if statement.startswith(("SELECT", "UPDATE", "DELETE")):
                rows = connection.exec_driver_sql(explain + statement, parameters).all()
                plans.append((statement, "\n".join(str(row[-1]) for row in rows)))
        session.rollback()
    return plans


def scans(plan: str, statement: str) -> list[str]:
    """Return the lines of a plan that read a growing table from one end to the other.

    A page in id order, which a limit ends, may go along the primary key.
    """
    paged = "LIMIT" in statement and "ORDER BY" in statement
    found = []
    # A range alone may be most of a table, but for moments, and for a page.
    ranges = re.findall(r"^SEARCH .*\((\w+)[<>]\?", plan, re.MULTILINE)
    found += [column for column in ranges if column not in ("created_at", "next_attempt_at") and not paged]
    for line in plan.splitlines():
        whole = "Seq Scan" in line or (line.startswith("SCAN ") and "ix_" not in line and "USING" not in line)
        if whole and any(f" {table}" in line for table in GROWING) and not (paged and line.startswith("SCAN ")):
            found.append(line)
    return found


@pytest.mark.parametrize("name", CASES)
def test_it_takes_an_index(filled, name):
    plans = plans_of(filled, CASES[name])
    for statement, plan in plans:
        assert scans(plan, statement) == [], f"{statement}\n{plan}"
        # A paged list that is sorted first has been read to its end.
        if "LIMIT" in statement and " list " in name:
            assert "TEMP B-TREE FOR ORDER BY" not in plan, f"{statement}\n{plan}"


def test_the_plan_of_a_query_without_an_index_is_seen(filled):
    """What the other test looks for is there when it should be."""
    query = select(func.count()).select_from(TrainingJob).where(TrainingJob.step > 3)
    ((statement, plan),) = plans_of(filled, lambda session: session.scalar(query))
    assert scans(plan, statement) != []
