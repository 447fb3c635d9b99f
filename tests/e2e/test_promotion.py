"""A fine-tune is evaluated beside its base by itself, and becomes champion only if it is better beyond noise."""

import json

import httpx
import pytest
from mlflow import MlflowClient

BASE = "contested-llama"


@pytest.fixture(scope="module")
def client(platform):
    return MlflowClient(platform.mlflow_url)


@pytest.fixture(scope="module")
def base_id(platform, models_dir):
    """A base of its own: nobody else's fine-tune is champion of it."""
    (models_dir / BASE).symlink_to(models_dir / "tiny-llama")
    return platform.http.post("/models", json={"name": "Contested", "base_model": BASE}).json()["id"]


def train(platform, base_id, **recipe):
    job_id = platform.train(model_id=base_id, max_seq_length=64, batch_size=4, **recipe)
    return platform.wait_for_job(job_id, "COMPLETED")


def completed_evaluation(platform, evaluation_id):
    def completed():
        found = platform.http.get(f"/evaluations/{evaluation_id}").json()
        assert found["status"] not in ("FAILED", "CANCELLED"), found
        return found if found["status"] == "COMPLETED" else None

    return platform.wait_until(completed, 120, f"evaluation {evaluation_id} to be made")


@pytest.fixture(scope="module")
def weak(platform, base_id):
    return train(platform, base_id, job_name="Weak", max_steps=1, learning_rate=1e-6, auto_evaluate=True)


@pytest.fixture(scope="module")
def strong(platform, base_id, weak):
    return train(platform, base_id, job_name="Strong", max_steps=60, learning_rate=1e-2, auto_evaluate=True)


def promote(platform, model_id, **body):
    return platform.http.post(f"/models/{model_id}/promote", json=body)


def champion(client):
    return client.get_model_version_by_alias(BASE, "champion")


def test_a_finished_job_shows_its_model_beside_the_base(platform, client, base_id, weak, strong):
    for job in (weak, strong):
        before = completed_evaluation(platform, job["base_evaluation_id"])
        after = completed_evaluation(platform, job["output_evaluation_id"])
        assert (before["model_id"], after["model_id"]) == (base_id, job["output_model_id"])
    # The same numbers are not computed twice.
    assert weak["base_evaluation_id"] == strong["base_evaluation_id"]
    ids = f"{strong['base_evaluation_id']},{strong['output_evaluation_id']}"
    compared = platform.http.get("/evaluations/compare", params={"ids": ids}).json()
    assert compared["metrics"]["perplexity"]["better"] == strong["output_evaluation_id"]
    assert compared["notes"] == []
    runs = [client.get_run(one["mlflow_run_id"]) for one in (before, after)]
    assert runs[0].info.experiment_id == runs[1].info.experiment_id
    assert before["mlflow_run_id"] in runs[1].data.tags["mlflow.note.content"]
    assert runs[1].data.metrics["perplexity"] < runs[0].data.metrics["perplexity"]


def test_who_is_better_beyond_noise_becomes_champion_and_nobody_else_unless_forced(platform, client, weak, strong):
    """The first one by itself, when its evaluations show that it is better than its base: the weak one is not."""
    weak_id, strong_id = weak["output_model_id"], strong["output_model_id"]
    completed_evaluation(platform, strong["output_evaluation_id"])
    assert champion(client).version == "2"
    figures = json.loads(champion(client).tags["promotion_figures"])
    assert (figures["better"], figures["test"]) == (True, 1)
    assert figures["evaluations"] == [strong["base_evaluation_id"], strong["output_evaluation_id"]]
    already = promote(platform, strong_id).json()
    assert (already["champion_before"], already["figures"]) == ({"model_id": strong_id, "version": "2"}, None)

    lost = promote(platform, weak_id)
    assert lost.status_code == 409
    assert "not better" in lost.json()["error"]
    assert champion(client).version == "2"

    forced = promote(platform, weak_id, force=True).json()
    assert (forced["version"], forced["forced"]) == ("1", True)
    assert champion(client).version == "1"
    assert champion(client).tags["promoted_over_version"] == "2"
    assert client.get_model_version(BASE, "2").tags["overruled_by_version"] == "1"

    won = promote(platform, strong_id, reason="It was trained").json()
    assert (won["version"], won["forced"], won["figures"]["better"]) == ("2", False, True)
    assert won["figures"]["evaluations"] == [weak["output_evaluation_id"], strong["output_evaluation_id"]]
    assert won["figures"]["ci95"][1] < 0
    assert (won["figures"]["left_out_rows"], won["figures"]["unknown_datasets"]) == (0, [])
    assert lost.json()["details"]["figures"]["values"] == won["figures"]["values"][::-1]
    assert champion(client).version == "2"
    assert champion(client).tags["promotion_reason"] == "It was trained"
    promote(platform, weak_id, force=True).raise_for_status()


def test_what_can_not_be_compared_or_promoted_is_said(platform, base_id, weak, strong):
    unknown = promote(platform, strong["output_model_id"], dataset_id=999)
    assert unknown.status_code == 409
    assert "data set 999" in unknown.json()["error"]
    refused = promote(platform, base_id)
    assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
    assert "no training job" in refused.json()["error"]
    assert promote(platform, 10_000).status_code == 404
    wrong = promote(platform, strong["output_model_id"], metric="avg_response_length")
    assert wrong.status_code == 422


def test_the_flow_makes_the_evaluations_that_are_missing_and_promotes(platform, client, weak, strong):
    """As its schedule does: the newest fine-tune of the base, which nobody has evaluated."""
    newest = train(platform, weak["model_id"], job_name="Newest", max_steps=60, learning_rate=1e-2)
    deployment = httpx.get(f"{platform.prefect_url}/deployments/name/promote/promote").json()
    body = {"parameters": {"promotion": {"base_model": BASE, "max_samples": 16}}}
    run = httpx.post(f"{platform.prefect_url}/deployments/{deployment['id']}/create_flow_run", json=body).json()

    def ended():
        state = httpx.get(f"{platform.prefect_url}/flow_runs/{run['id']}").json()["state"]
        assert state["type"] not in ("FAILED", "CRASHED", "CANCELLED"), state
        return state if state["type"] == "COMPLETED" else None

    state = platform.wait_until(ended, 120, "the promotion to end")
    assert (state["name"], champion(client).run_id) == ("Promoted", newest["mlflow_run_id"]), state["message"]
    made = [
        one
        for one in platform.http.get("/evaluations").json()["evaluations"]
        if one["eval_name"].startswith("Promotion")
    ]
    assert {one["model_id"] for one in made} == {weak["output_model_id"], newest["output_model_id"]}
    for one in made:
        completed_evaluation(platform, one["id"])
