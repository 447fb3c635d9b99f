from collections import Counter
from datetime import timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from configs.recipe import METRICS, EvaluationParameters, FinetuneParameters, MetricName
from registry.attempts import machine, oom_kills
from registry.clock import utcnow
from registry.repositories.datasets import DatasetRepository
from registry.repositories.evaluations import (
    EvaluationRepository,
    evaluated_length,
    evaluated_rows,
    measured_length,
    measured_new_tokens,
    metrics_of,
)
from registry.repositories.flow_backed import Outcome, Worker
from registry.repositories.idempotency import IdempotencyRepository
from registry.repositories.models import ModelRepository
from registry.repositories.statistics import GENERATIONS, StatisticsRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.submissions import JOB_TAG, evaluation_of_parameters, job_of_parameters, submission_of, uid_of_tags
from registry.tables import Evaluation, Model, StatusCount, TrainingJob

FLOW_BACKED: list[Any] = [TrainingJob, Evaluation]
JOB = FinetuneParameters(model_id=1, job_name="a job", lora_r=4)


def add_job(database, flow_run_id=None, labels=None) -> int:
    job = job_of_parameters(JOB, flow_run_id)
    job.labels = labels
    with database.transaction() as session:
        return TrainingJobRepository(session).add(job).id


def test_lists_are_in_id_order_and_paged(database):
    ids = [add_job(database) for _ in range(5)]
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        assert [job.id for job in jobs.list()] == ids
        assert [job.id for job in jobs.list(limit=2)] == ids[:2]
        assert [job.id for job in jobs.list(limit=2, after=ids[1])] == ids[2:4]
        assert jobs.list(after=ids[-1]) == []


def test_the_newest_jobs_are_found_by_their_labels(database):
    labels = [{"who": "anna", "a.b]": "1"}, None, {"who": "anna", "a.b]": "2"}, {"who": ""}]
    ids = [add_job(database, labels=its) for its in labels]
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        assert [job.id for job in jobs.newest(3)] == ids[:0:-1]
        assert [job.id for job in jobs.newest(3, before=ids[2])] == ids[1::-1]
        assert [job.id for job in jobs.newest(9, labels={"who": "anna"})] == [ids[2], ids[0]]
        assert [job.id for job in jobs.newest(9, labels={"who": "anna", "a.b]": "1"})] == [ids[0]]
        assert [job.id for job in jobs.newest(9, labels={"who": ""})] == [ids[3]]
        assert [job.id for job in jobs.newest(9, before=ids[2], labels={"who": "anna"})] == [ids[0]]
        assert jobs.newest(9, labels={"who": "anna", "a.b]": "3"}) == []
        assert [job.id for job in jobs.newest(9, unlabelled=True)] == [ids[1]]
        assert jobs.ended(9) == []


def test_what_is_held_out_is_in_use(database):
    parameters = JOB.model_copy(update={"dataset_id": 1, "held_out_dataset_id": 7})
    with database.transaction() as session:
        job_id = TrainingJobRepository(session).add(job_of_parameters(parameters)).id
    with database.reading() as session:
        assert DatasetRepository(session).users(7) == [f"training job {job_id}"]


def test_an_evaluation_is_over_what_the_models_training_held_out_unless_it_names_rows():
    def model(**recipe) -> Model:
        return Model(parameters={"recipe": recipe})

    assert evaluated_rows(None, None, Model(parameters=None)) == (1, None)
    assert evaluated_rows(None, None, model(dataset_id=3)) == (3, None)
    assert evaluated_rows(None, None, model(dataset_id=3, held_out_dataset_id=4)) == (3, 4)
    assert evaluated_rows(5, None, model(dataset_id=3, held_out_dataset_id=4)) == (5, None)
    assert evaluated_rows(None, 6, model(dataset_id=3, held_out_dataset_id=4)) == (1, 6)


def test_a_model_is_evaluated_at_the_length_that_it_was_trained_with():
    trained, base = Model(parameters={"recipe": {"max_seq_length": 2048}}), Model(parameters=None)
    assert [evaluated_length(None, one) for one in (trained, base)] == [2048, 512]
    assert evaluated_length(128, trained) == 128


def test_an_evaluation_without_conditions_had_the_lengths_of_its_time(database):
    with database.transaction() as session:
        evaluations = EvaluationRepository(session)
        older = evaluation_of_parameters(EvaluationParameters(model_id=1, max_new_tokens=64))
        evaluations.record_metrics(older, dict.fromkeys(METRICS, 0.5), dict.fromkeys(METRICS))
        newer = evaluation_of_parameters(EvaluationParameters(model_id=1))
        conditions = {"max_seq_length": 1024, "max_new_tokens": 90}
        evaluations.record_metrics(newer, dict.fromkeys(METRICS, 0.5), dict.fromkeys(METRICS), conditions)
    assert (measured_length(older), measured_new_tokens(older)) == (512, 64)
    assert (measured_length(newer), measured_new_tokens(newer)) == (1024, 90)


def test_what_prefect_was_told_names_the_job(database):
    job_id = add_job(database)
    with database.reading() as session:
        job = TrainingJobRepository(session).get(job_id)
    submission = submission_of(job)
    assert FinetuneParameters.model_validate(submission.parameters["job"]) == JOB
    assert uid_of_tags(["other", submission.tag], JOB_TAG) == job.uid


def test_a_submitted_run_finds_its_job_and_a_copy_of_the_run_gets_its_own(database):
    job_id = add_job(database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        uid = jobs.get(job_id).uid
        assert jobs.of_flow_run("run-1", uid, lambda: pytest.fail("the job exists")).id == job_id
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        assert jobs.of_flow_run("run-1", uid, lambda: pytest.fail("the job exists")).id == job_id
        copy = jobs.of_flow_run("run-2", uid, lambda: job_of_parameters(JOB, "run-2"))
        assert copy.id != job_id
        assert jobs.of_flow_run("run-3", None, lambda: None) is None


def test_two_jobs_can_not_claim_one_run(database):
    add_job(database, "run-1")
    with pytest.raises(IntegrityError):
        add_job(database, "run-1")


def test_states_are_mirrored_in_their_own_order_not_in_that_of_arrival(database):
    job_id = add_job(database, "run-1")
    start = utcnow()
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        job = jobs.get(job_id)
        assert jobs.record_state(job, "RUNNING", start + timedelta(seconds=1))
        assert not jobs.record_state(job, "PENDING", start)
        assert job.status == "RUNNING"
        assert job.started_at == start + timedelta(seconds=1)
        assert jobs.record_state(job, "FAILED", start + timedelta(seconds=2), "it broke")
        assert (job.completed_at, job.error) == (start + timedelta(seconds=2), "it broke")
        assert jobs.record_state(job, "PENDING", start + timedelta(seconds=3))
        assert (job.completed_at, job.error) == (None, None)


def test_waiting_and_unfinished_jobs_are_told_apart(database):
    waiting, accepted, done = add_job(database), add_job(database, "run-2"), add_job(database, "run-3")
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.get(done), "COMPLETED", utcnow())
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        assert [job.id for job in jobs.unsubmitted()] == [waiting]
        assert [job.id for job in jobs.unfinished()] == [accepted]


def test_log_lines_come_back_in_order(database):
    job_id = add_job(database)
    with database.transaction() as session:
        for line in ("first", "second", "naïve 🦊"):
            TrainingJobRepository(session).log(job_id, line)
    with database.reading() as session:
        assert TrainingJobRepository(session).log_lines(job_id) == ["first", "second", "naïve 🦊"]


def test_events_tell_what_happened_in_order_and_come_in_pages(database):
    job_id, other = add_job(database, "run-1"), add_job(database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        job = jobs.get(job_id)
        jobs.begin_attempt(job, Worker("host", 7))
        jobs.record_state(job, "RUNNING", utcnow())
        jobs.add_events(job_id, [("step", {"step": 1, "loss": 2.5}), ("checkpoint", {"step": 1})])
        jobs.log(job_id, "a line")
        jobs.record_state(job, "RUNNING", utcnow())
        jobs.log(other, "another job's line")
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        events = jobs.events(job_id)
        assert [event.kind for event in events] == ["attempt", "state", "step", "checkpoint", "log"]
        assert events[2].data == {"step": 1, "loss": 2.5}
        assert [event.id for event in jobs.events(job_id, after=events[1].id, limit=2)] == [e.id for e in events[2:4]]
        (attempt,) = jobs.attempts(job_id)
        assert attempt == {
            "number": 1,
            "host": "host",
            "pid": 7,
            "started_at": events[0].created_at,
            "ended_at": None,
            "outcome": None,
        }


def test_an_attempt_ends_once_and_one_that_did_not_say_so_has_died(database):
    job_id = add_job(database, "run-1")
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        job = jobs.get(job_id)
        assert not jobs.end_attempt(job, "completed")
        for pid in (1, 2, 3):
            jobs.begin_attempt(job, Worker("host", pid))
            if pid == 2:
                assert jobs.end_attempt(job, "paused")
                assert not jobs.end_attempt(job, "died")
        assert [attempt["outcome"] for attempt in jobs.attempts(job_id)] == ["died", "paused", None]
        assert [attempt["ended_at"] is None for attempt in jobs.attempts(job_id)] == [False, False, True]
        assert jobs.count_crash(job) == 1
        assert jobs.attempts(job_id)[2]["outcome"] == "died"


def test_an_attempt_was_killed_for_memory_if_it_died_while_the_kernel_killed(database):
    job_id, now = add_job(database, "run-1"), oom_kills()
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        job = jobs.get(job_id)
        assert not jobs.was_killed_for_memory(job)
        here = machine()
        cases: list[tuple[int, str | None, Outcome | None, bool]] = [
            (now - 1, here, "died", True),
            (now - 1, here, None, True),
            (now - 1, here, "paused", False),
            (now, here, "died", False),
            (now - 1, "elsewhere", "died", False),
        ]
        for kills, where, outcome, killed in cases:
            jobs.begin_attempt(job, Worker("host", 1, where, oom_kills=kills))
            if outcome is not None:
                jobs.end_attempt(job, outcome)
            assert jobs.was_killed_for_memory(job) == killed


def test_mlflow_is_behind_until_it_was_told_the_newest_status(database):
    job_id = add_job(database, "run-1")

    def pending_mlflow_sync():
        with database.reading() as session:
            return [(job.id, job.status) for job in TrainingJobRepository(session).pending_mlflow_sync()]

    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.get(job_id), "RUNNING", utcnow())
    assert pending_mlflow_sync() == []  # there is no MLflow run to tell
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.link_mlflow_run(jobs.get(job_id), "abc")
    assert pending_mlflow_sync() == [(job_id, "RUNNING")]
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.get(job_id), "PAUSED", utcnow())
        jobs.mark_synced(job_id, "RUNNING")
    assert pending_mlflow_sync() == [(job_id, "PAUSED")]
    with database.transaction() as session:
        TrainingJobRepository(session).mark_synced(job_id, "PAUSED")
    assert pending_mlflow_sync() == []


def test_the_queue_is_first_in_first_out_and_a_resumed_job_goes_to_its_end(database):
    first, second, third = (add_job(database, f"run-{i}") for i in range(3))

    def positions():
        with database.reading() as session:
            jobs = TrainingJobRepository(session)
            return [jobs.queue_position(jobs.get(job_id)) for job_id in (first, second, third)]

    assert positions() == [1, 2, 3]
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.get(first), "RUNNING", utcnow())
    assert positions() == [None, 1, 2]
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.get(first), "PENDING", utcnow())
    assert positions() == [3, 1, 2]


def test_a_removed_job_leaves_nothing_but_others_alone(database):
    job_id, other = add_job(database), add_job(database)
    with database.transaction() as session:
        IdempotencyRepository(session).add("POST /api/training", "key", "hash", job_id, {})
        jobs = TrainingJobRepository(session)
        jobs.log(job_id, "a line", "and another")
        jobs.log(other, "a line")
        jobs.remove(jobs.get(job_id))
        assert jobs.remove_events()
        assert not jobs.remove_events()
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        assert jobs.get(job_id) is None
        assert jobs.log_lines(job_id) == []
        assert jobs.log_lines(other) == ["a line"]
        assert IdempotencyRepository(session).get("POST /api/training", "key") is None


def test_a_model_in_use_says_by_what_and_a_deleted_one_is_gone(database):
    job_id = add_job(database)
    with database.transaction() as session:
        models = ModelRepository(session)
        assert models.users(1) == [f"training job {job_id}"]
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.get(job_id), "CANCELLED", utcnow())
        assert models.users(1) == []
        child = models.add(Model(name="child", base_model="x", status="AVAILABLE", parent_model_id=1))
        assert models.users(1) == [f"model {child.id}"]
        child.deleted_at = utcnow()
        assert models.users(1) == []
        models.remove(models.get(1))
    with database.reading() as session:
        models = ModelRepository(session)
        assert models.get(1) is None
        assert [model.id for model in models.list()] == [2, 3]
        assert StatisticsRepository(session).counts().total_models == 2


def test_an_evaluation_takes_all_five_metrics_or_none(database):
    with database.transaction() as session:
        evaluations = EvaluationRepository(session)
        evaluation = evaluations.add(evaluation_of_parameters(EvaluationParameters(model_id=1)))
        evaluations.record_metrics(
            evaluation, dict.fromkeys(METRICS, 0.5), dict.fromkeys(METRICS) | {"perplexity": (0.25, 0.75)}
        )

    def record_one_metric() -> None:
        with database.transaction() as session:
            evaluations = EvaluationRepository(session)
            evaluations.record_metrics(evaluations.get(evaluation.id), {"perplexity": 1.0}, dict.fromkeys(METRICS))

    with pytest.raises(KeyError):
        record_one_metric()
    with database.reading() as session:
        stored = EvaluationRepository(session).get(evaluation.id)
    assert stored.perplexity == 0.5
    assert stored.intervals == dict.fromkeys(METRICS) | {"perplexity": [0.25, 0.75]}


def test_an_evaluation_of_chosen_metrics_takes_those_and_no_others(database):
    with database.transaction() as session:
        evaluations = EvaluationRepository(session)
        parameters = EvaluationParameters(model_id=1, metrics=["rouge_score", "perplexity"])
        evaluation = evaluations.add(evaluation_of_parameters(parameters))
        numbers: dict[MetricName, float] = {"perplexity": 9.5, "rouge_score": 0.25}
        evaluations.record_metrics(evaluation, numbers, {"perplexity": (8.0, 11.0), "rouge_score": None})
        with pytest.raises(KeyError):
            evaluations.record_metrics(evaluation, {"perplexity": 9.5}, {"perplexity": None})
    with database.reading() as session:
        stored = EvaluationRepository(session).get(evaluation.id)
    assert {name: getattr(stored, name) for name in METRICS} == dict.fromkeys(METRICS) | numbers
    assert stored.intervals == {"perplexity": [8.0, 11.0], "rouge_score": None}
    assert metrics_of(stored) == ["perplexity", "rouge_score"]


def test_an_evaluation_older_than_the_choice_has_all_five(database):
    with database.transaction() as session:
        evaluation = evaluation_of_parameters(EvaluationParameters(model_id=1))
        del evaluation.parameters["metrics"]
        evaluation_id = EvaluationRepository(session).add(evaluation).id
    with database.reading() as session:
        assert metrics_of(EvaluationRepository(session).get(evaluation_id)) == list(METRICS)


def test_a_key_is_remembered_once_per_scope(database):
    with database.transaction() as session:
        keys = IdempotencyRepository(session)
        keys.add("POST /a", "key", "hash", 1, {"id": 1})
        keys.add("POST /b", "key", "hash", 2, {"id": 2})
    with pytest.raises(IntegrityError), database.transaction() as session:
        IdempotencyRepository(session).add("POST /a", "key", "hash", 3, {})
    with database.reading() as session:
        assert IdempotencyRepository(session).get("POST /a", "key").response == {"id": 1}


def test_statistics_count_every_kind(database):
    job_id = add_job(database, "run-1")
    add_job(database)
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.get(job_id), "RUNNING", utcnow())
        EvaluationRepository(session).add(evaluation_of_parameters(EvaluationParameters(model_id=1)))
        StatisticsRepository(session).count({GENERATIONS: 1})
    with database.reading() as session:
        counts = StatisticsRepository(session).counts()
    assert (counts.total_models, counts.total_training_jobs, counts.running_training_jobs) == (3, 2, 1)
    assert (counts.completed_training_jobs, counts.total_evaluations, counts.total_generations) == (0, 1, 1)


def test_the_kept_counts_are_those_of_the_rows_whatever_happens_to_them(database):
    """Beside repositories, statements that change many rows at once, as a hand at the database would."""
    random = Random(0)

    def anything(session):
        jobs, evaluations = TrainingJobRepository(session), EvaluationRepository(session)
        what = random.randrange(9)
        if what < 3:
            jobs.add(job_of_parameters(FinetuneParameters(model_id=1)))
            evaluations.add(evaluation_of_parameters(EvaluationParameters(model_id=1)))
            ModelRepository(session).add(Model(name="m", base_model="gpt2", status="AVAILABLE", description=""))
        elif what == 3:
            table, status = random.choice(FLOW_BACKED), random.choice(["RUNNING", "COMPLETED"])
            session.execute(update(table).where(table.id % 3 == random.randrange(3)).values(status=status))
        elif what == 4:
            session.execute(update(Model).where(Model.id % 7 == 3).values(deleted_at=utcnow()))
        elif what == 5:
            session.execute(update(Model).where(Model.id % 7 == 3).values(deleted_at=None, status="LOADING"))
        elif what == 6:
            session.execute(delete(TrainingJob).where(TrainingJob.id % 5 == 2))
        elif what == 7:
            session.execute(update(TrainingJob).values(step=TrainingJob.step + 1))
        else:
            StatisticsRepository(session).fold_counts()

    for number in range(150):
        with database.transaction() as session:
            anything(session)
            if number % 10 == 9:
                session.rollback()
        with database.reading() as session:
            there: dict[str, Counter[str]] = {name: Counter() for name in ("training_jobs", "evaluations", "models")}
            for table in FLOW_BACKED:
                there[table.__tablename__].update(session.scalars(select(table.status)))
            for status, deleted in session.execute(select(Model.status, Model.deleted_at)):
                there["models"]["DELETED" if deleted else status] += 1
            assert StatisticsRepository(session).by_status() == there
            counts = StatisticsRepository(session).counts()
            assert counts.total_models == sum(there["models"].values()) - there["models"]["DELETED"]
            assert counts.completed_training_jobs == there["training_jobs"]["COMPLETED"]


def test_folding_leaves_one_row_for_each_status(database):
    for _ in range(5):
        add_job(database)
    with database.transaction() as session:
        StatisticsRepository(session).fold_counts()
        rows = session.execute(select(StatusCount.counted, StatusCount.status, StatusCount.change)).all()
    assert ("training_jobs", "PENDING", 5) in rows
    assert len(rows) == len({row[:2] for row in rows})


def test_availability_reaches_every_model_of_a_base_and_sizes_only_the_unsized(database):
    with database.transaction() as session:
        ModelRepository(session).set_availability("gpt2", "AVAILABLE", None, "999M")
    with database.reading() as session:
        model = ModelRepository(session).get(2)
        assert (model.status, model.model_size) == ("AVAILABLE", "124M")
        assert ModelRepository(session).availability()["gpt2"] == ("AVAILABLE", None)


def test_a_model_with_weights_of_its_own_does_not_depend_on_its_base(database):
    whole = Model(name="Whole", base_model="gpt2", status="AVAILABLE", description="", weights="a-uid")
    with database.transaction() as session:
        models = ModelRepository(session)
        whole_id = models.add(whole).id
        assert models.base_of_name("gpt2").id != whole_id
        models.set_availability("gpt2", "UNAVAILABLE", "gone", None)
        assert models.availability()["gpt2"] == ("UNAVAILABLE", "gone")
    with database.reading() as session:
        models = ModelRepository(session)
        found = models.get(whole_id)
        assert (found.status, found.status_reason, found.is_base) == ("AVAILABLE", None, False)
        assert models.base_of_name("gpt2").is_base
