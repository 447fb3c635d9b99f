"""Numbers that are none, and texts with odd characters, are stored on both databases; reporting goes on after them."""

import math

import pytest

from configs.recipe import METRICS, EvaluationParameters, FinetuneParameters
from registry.clock import utcnow
from registry.repositories.evaluations import EvaluationRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.step_metrics import results_file
from registry.submissions import evaluation_of_parameters, job_of_parameters

ODD_NUMBERS = [math.nan, math.inf, -math.inf]
ODD_TEXTS = ["a\0b", "a\ud800b", "\x1b[31m", "\u2028"]


@pytest.fixture
def job_id(database):
    with database.transaction() as session:
        return TrainingJobRepository(session).add(job_of_parameters(FinetuneParameters(model_id=1))).id


@pytest.mark.parametrize("number", ODD_NUMBERS)
def test_an_events_number_that_is_none_is_null_and_said(database, job_id, number):
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.add_events(job_id, [("step", {"step": 1, "loss": number}), ("step", {"step": 2, "loss": 0.5})])
        jobs.record_progress(job_id, {"step": 2, "current_loss": number, "eval_loss": number})
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        first, second = jobs.events(job_id)
        assert first.data == {"step": 1, "loss": None, "not_finite": {"loss": str(number)}}
        assert second.data == {"step": 2, "loss": 0.5}
        job = jobs.require(job_id)
        assert (job.step, job.current_loss, job.eval_loss) == (2, None, None)


@pytest.mark.parametrize("number", ODD_NUMBERS)
def test_an_evaluations_metric_that_is_no_number_is_refused_and_such_an_interval_is_null(database, number):
    with database.transaction() as session:
        evaluations = EvaluationRepository(session)
        evaluation = evaluations.add(evaluation_of_parameters(EvaluationParameters(model_id=1)))
        intervals = dict.fromkeys(METRICS, (0.1, 0.9)) | {"perplexity": (0.1, number)}
        with pytest.raises(ValueError, match="must be finite numbers, but these are not"):
            evaluations.record_metrics(evaluation, dict.fromkeys(METRICS, 0.5) | {"perplexity": number}, intervals)
        assert evaluation.bleu_score is None
        evaluations.record_metrics(evaluation, dict.fromkeys(METRICS, 0.5), intervals)
    with database.reading() as session:
        stored = EvaluationRepository(session).require(evaluation.id)
        assert (stored.perplexity, stored.bleu_score) == (0.5, 0.5)
        assert stored.intervals == {name: [0.1, 0.9] for name in METRICS} | {"perplexity": None}


@pytest.mark.parametrize("odd", ODD_TEXTS)
def test_odd_characters_do_not_keep_a_log_or_an_end_from_being_stored(database, job_id, odd):
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.log(job_id, odd, "the next line")
        jobs.record_state(jobs.require(job_id), "FAILED", utcnow(), odd)
    with database.reading() as session:
        jobs = TrainingJobRepository(session)
        first, second = jobs.log_lines(job_id)
        error = jobs.require(job_id).error
    assert second == "the next line"
    shown = odd.replace("\0", "\\x00").replace("\ud800", "\\ud800")
    assert (first, error) == (shown, shown)


def test_the_size_of_a_results_file_is_kept_without_reading_it(database, job_id):
    """In many pieces, as they are reported, with numbers of every length and steps that repeat nothing."""
    pieces = [
        [("step", {"step": 1, "epoch": 1, "loss": 1 / 3, "learning_rate": 1e-05, "tokens_per_second": 12.5})],
        [("step", {"step": n, "loss": n / 7, "learning_rate": 0.1}) for n in range(2, 12)],
        [("evaluation", {"step": 5, "eval_loss": 2.25}), ("log", {})],
        [("step", {"step": 12, "loss": math.nan}), ("evaluation", {"step": 12, "eval_loss": math.inf})],
        [("evaluation", {"step": 13, "eval_loss": 0.125})],
        [("step", {"step": 13, "loss": 3.0, "tokens_per_second": 1e300})],
    ]
    for piece in pieces:
        with database.transaction() as session:
            TrainingJobRepository(session).add_events(job_id, piece)
        with database.reading() as session:
            jobs = TrainingJobRepository(session)
            assert jobs.results_bytes(jobs.require(job_id)) == len(results_file(jobs.measured(job_id)))


def test_a_job_of_an_older_version_has_no_kept_size(database, job_id):
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.require(job_id).results_bytes = None
        session.flush()
        jobs.add_events(job_id, [("step", {"step": 1, "loss": 1.0})])
        assert jobs.results_bytes(jobs.require(job_id)) is None
