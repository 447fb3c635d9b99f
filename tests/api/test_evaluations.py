"""What the API says of evaluations: numbers with their intervals, made through the repositories."""

import numpy as np
import pytest

from configs.recipe import EvaluationParameters
from registry.clock import utcnow
from registry.database import Database
from registry.repositories.evaluations import METRICS, EvaluationRepository
from registry.submissions import evaluation_of_parameters
from tasks.metrics.bootstrap import confidence_intervals
from tasks.metrics.samples import corpus_metrics
from tests.tasks.metrics.made_samples import draw_samples


@pytest.fixture(scope="module")
def database(settings, client):
    database = Database(settings.platform_database_url)
    yield database
    database.close()


@pytest.fixture(scope="module")
def evaluated(database, tiny_model):
    """Store a completed evaluation of these samples; return its id."""

    def store(scores) -> int:
        with database.transaction() as session:
            evaluations = EvaluationRepository(session)
            evaluation = evaluations.add(evaluation_of_parameters(EvaluationParameters(model_id=tiny_model["id"])))
            evaluations.record_metrics(evaluation, corpus_metrics(scores), confidence_intervals(scores))
            evaluations.record_state(evaluation, "COMPLETED", utcnow())
            return evaluation.id

    return store


@pytest.fixture(scope="module")
def unfinished(database, tiny_model):
    with database.transaction() as session:
        parameters = EvaluationParameters(model_id=tiny_model["id"])
        evaluation = evaluation_of_parameters(parameters, flow_run_id="a run that Prefect has")
        return EvaluationRepository(session).add(evaluation).id


def test_each_metric_has_its_interval(client, evaluated):
    evaluation_id = evaluated(draw_samples(np.random.default_rng(1), 20))
    shown = client.get(f"/api/evaluations/{evaluation_id}").json()
    for name in METRICS:
        low, high = shown[f"{name}_ci95"]
        assert low < shown[name] < high, name
    assert client.get("/api/evaluations").json()["evaluations"][-1] == shown


def test_one_sample_has_no_interval_and_an_unfinished_evaluation_no_numbers(client, evaluated, unfinished):
    single = client.get(f"/api/evaluations/{evaluated(draw_samples(np.random.default_rng(1), 1))}").json()
    assert all(single[name] is not None and single[f"{name}_ci95"] is None for name in METRICS)
    shown = client.get(f"/api/evaluations/{unfinished}").json()
    assert all(shown[name] is None and shown[f"{name}_ci95"] is None for name in METRICS)
