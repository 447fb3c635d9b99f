"""A long history, made by the database itself: a million jobs are there within a minute."""

import json

from sqlalchemy import Connection, func, select, text

from configs.recipe import EvaluationParameters, FinetuneParameters
from registry.database import Database, upgrade
from registry.repositories.statistics import StatisticsRepository
from registry.submissions import evaluation_of_parameters, job_of_parameters
from registry.tables import Dataset, Evaluation, JobEvent, JobLabel, Model, TrainingJob

EVENTS_OF_A_JOB = 20
ROWS_AT_ONCE = 100_000
STATUS = "CASE n % 10 WHEN 0 THEN 'FAILED' WHEN 1 THEN 'CANCELLED' ELSE 'COMPLETED' END"
CREATED = "'2025-01-01 00:00:00.000000'"


def fill(url: str, jobs: int, with_events: int) -> None:
    """Bring a database to so many jobs, evaluations, models and data sets; the first `with_events` jobs have events."""
    upgrade(url)
    database = Database(url)
    with database.transaction() as session:
        have = session.scalar(select(func.count()).select_from(TrainingJob)) or 0
    for start in range(have, jobs, ROWS_AT_ONCE):
        with database.transaction() as session:
            _add(session.connection(), start + 1, min(start + ROWS_AT_ONCE, jobs), with_events)
            StatisticsRepository(session).fold_counts()  # as the controller does every ten minutes
    with database.engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        # As PostgreSQL's own housekeeping does in time, and SQLite's `PRAGMA optimize`.
        if database.engine.dialect.name == "sqlite":
            connection.execute(text("ANALYZE"))
        else:
            # A history of years was vacuumed all along; one that is made at once leaves millions of dead rows here.
            connection.execute(text("VACUUM FULL status_counts"))
            connection.execute(text("VACUUM ANALYZE"))
    database.close()


def _add(connection: Connection, first: int, last: int, with_events: int) -> None:
    timestamp = CREATED if connection.dialect.name == "sqlite" else f"TIMESTAMP {CREATED}"
    no, quote = ("0", _quoted) if connection.dialect.name == "sqlite" else ("false", _quoted_json)
    recipe = quote(job_of_parameters(FinetuneParameters(model_id=1)).recipe)
    parameters = quote(evaluation_of_parameters(EvaluationParameters(model_id=1)).parameters)
    flow = {
        "uid": "'{0}' || n",
        "status": STATUS,
        "flow_run_id": "'{0}' || n",
        "mlflow_run_id": "'{0}' || n",
        "mlflow_sync_pending": no,
        "model_id": "1 + n % 3",
        "created_at": timestamp,
        "started_at": timestamp,
        "completed_at": timestamp,
        "attempt": "1",
        "attempt_step": "0",
        "crashes": "0",
    }

    def add(table: type, columns: dict[str, str], first: int = first, last: int = last, where: str = "TRUE") -> None:
        numbers = f"WITH RECURSIVE numbers(n) AS (SELECT {first} UNION ALL SELECT n + 1 FROM numbers WHERE n < {last})"
        chosen = ", ".join(columns.values())
        into = f"INSERT INTO {table.__tablename__} ({', '.join(columns)})"  # type: ignore[attr-defined]
        rows = f"SELECT {chosen} FROM numbers WHERE {where}"
        connection.exec_driver_sql(f"{into} {numbers} {rows}".replace("%", _percent(connection)))

    model = {"name": "'model ' || n", "base_model": "'gpt2'", "status": "'AVAILABLE'", "description": "''"}
    add(Model, {**model, "weights": "'w' || n", "created_at": timestamp, "updated_at": timestamp})
    job = {name: value.format("j") for name, value in flow.items()}
    progress = {"step": "9", "total_steps": "9", "current_epoch": "1", "pausing": no, "cancelling": no}
    labels = f"CASE n % 3 WHEN 0 THEN {quote({'team': 'a'})} END"
    shown = {"job_name": "'job ' || n", "recipe": recipe, "labels": labels, "results_bytes": "300"}
    add(TrainingJob, {**job, **progress, **shown})
    add(JobLabel, {"key": "'team'", "value": "'a'", "job_id": "n"}, where="n % 3 = 0")
    evaluation = {name: value.format("e") for name, value in flow.items()}
    numbers = dict.fromkeys(("perplexity", "bleu_score", "rouge_score", "response_diversity"), "0.5")
    asked = {"eval_name": "'evaluation ' || n", "parameters": parameters, "avg_response_length": "9.5"}
    add(Evaluation, {**evaluation, **numbers, **asked})
    dataset = {"name": "'data set ' || n", "uid": "'d' || n", "source": "'upload'", "status": "'READY'"}
    add(Dataset, {**dataset, "settings": quote({}), "created_at": timestamp})
    if first <= with_events:
        event = {"kind": "'log'", "message": "'line ' || n", "data": quote({}), "created_at": timestamp}
        events = {"job_id": f"1 + n / {EVENTS_OF_A_JOB}", **event}
        highest = min(last, with_events) * EVENTS_OF_A_JOB - 1
        add(JobEvent, events, first=(first - 1) * EVENTS_OF_A_JOB, last=highest)


def _percent(connection: Connection) -> str:
    # psycopg takes a single one for a parameter, where there are parameters.
    return "%" if connection.dialect.name == "sqlite" else "%%"


def _quoted(value: dict[str, object]) -> str:
    return "'" + json.dumps(value).replace("'", "''") + "'"


def _quoted_json(value: dict[str, object]) -> str:
    return _quoted(value) + "::json"
