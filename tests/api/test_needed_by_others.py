"""What a restartable job or a fine-tune needs: kept, or missed in a sentence that says what to do."""

import shutil

import pytest

from api.errors import Conflict
from api.routes.evaluations.service import _insert_evaluation
from configs.recipe import EvaluationParameters
from registry.clock import utcnow
from registry.repositories.datasets import DatasetRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Dataset, Model
from tests.tiny_families import save_family


@pytest.fixture
def dataset_id(database):
    """A data set that is ready to be used."""
    with database.transaction() as session:
        row = Dataset(uid=utcnow().isoformat(), name="rows", source="upload", status="READY", settings={})
        return DatasetRepository(session).add(row).id


def forget(database, dataset_id) -> None:
    with database.transaction() as session:
        datasets = DatasetRepository(session)
        datasets.remove(datasets.get(dataset_id))


@pytest.mark.parametrize("field", ["dataset_id", "held_out_dataset_id"])
@pytest.mark.parametrize(
    ("status", "kept"), [("PENDING", True), ("FAILED", True), ("CANCELLED", True), ("COMPLETED", False)]
)
def test_rows_are_kept_for_a_job_that_may_run_again(client, job, dataset_id, field, status, kept):
    job_id = job(status, **{field: dataset_id})
    answer = client.delete(f"/api/datasets/{dataset_id}")
    assert answer.status_code == (409 if kept else 200)
    assert not kept or f"training job {job_id}" in answer.json()["error"]
    if status in ("FAILED", "CANCELLED"):
        assert "can be restarted" in answer.json()["error"]
        assert client.delete(f"/api/training/{job_id}").status_code == 200
        assert client.delete(f"/api/datasets/{dataset_id}").status_code == 200


@pytest.mark.parametrize("field", ["dataset_id", "held_out_dataset_id"])
def test_a_job_whose_rows_are_gone_is_not_restarted_and_stays_as_it_is(client, database, job, dataset_id, field):
    job_id = job("FAILED", **{field: dataset_id})
    forget(database, dataset_id)  # by an older version of the platform
    answer = client.post(f"/api/training/{job_id}/restart")
    assert answer.status_code == 409
    assert f"data set {dataset_id}" in answer.json()["error"]
    shown = client.get(f"/api/training/{job_id}").json()
    assert (shown["status"], shown["error"]) == ("FAILED", "it broke")


def test_a_job_without_a_run_is_restarted_once_prefect_answers(client, database, job):
    job_id = job("CANCELLED")
    assert client.post(f"/api/training/{job_id}/restart").json()["status"] == "PENDING"
    with database.reading() as session:
        assert [one.id for one in TrainingJobRepository(session).unsubmitted()][-1:] == [job_id]


@pytest.mark.parametrize("field", ["dataset_id", "held_out_dataset_id"])
def test_evaluating_a_fine_tune_whose_rows_are_gone_is_refused_unless_others_are_named(database, dataset_id, field):
    with database.transaction() as session:
        model = Model(name="m", base_model="tiny-llama", status="AVAILABLE", parameters={"recipe": {field: dataset_id}})
        session.add(model)
        session.flush()
        model_id = model.id
    forget(database, dataset_id)
    with database.transaction() as session:
        with pytest.raises(Conflict, match=f"data set {dataset_id}, which has been deleted"):
            _insert_evaluation(session, EvaluationParameters(model_id=model_id))
        _insert_evaluation(session, EvaluationParameters(model_id=model_id, dataset_id=1))


@pytest.mark.parametrize(
    "target", ["lm_head", "embed_tokens", "q_projection", "proj", "mlp", "model.layers.9.mlp.up_proj"]
)
def test_layers_that_a_model_has_not_are_refused_with_those_it_has(client, tiny_model, target):
    body = {"model_id": tiny_model["id"], "job_name": "j", "target_modules": ["q_proj", target]}
    answer = client.post("/api/training", json=body)
    assert answer.status_code == 422, answer.text
    assert target in answer.json()["error"]
    assert "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj" in answer.json()["error"]


@pytest.mark.parametrize(
    ("base", "targets"),
    [
        ("tiny-llama", ["q_proj", "self_attn.k_proj", "model.layers.0.mlp.up_proj"]),
        ("tiny-gpt2", ["c_attn", "attn.c_proj", "transformer.h.0.mlp.c_fc", "h.0.mlp.c_fc"]),
    ],
)
def test_layers_that_a_model_has_are_taken(client, base, targets):
    model_id = client.post("/api/models", json={"name": base, "base_model": base}).json()["id"]
    for target in targets:
        body = {"model_id": model_id, "job_name": "j", "target_modules": [target]}
        assert client.post("/api/training", json=body).status_code == 201, target


@pytest.fixture(scope="module", params=["mixtral", "qwen3_moe", "gpt_oss"])
def mixture(request, client, tiny_models_dir, tiny_llama_dir):
    """A mixture of experts."""
    folder = save_family(request.param, tiny_models_dir / request.param)
    for file in tiny_llama_dir.glob("*token*"):
        shutil.copy(file, folder)
    added = client.post("/api/models", json={"name": request.param, "base_model": request.param}).json()
    assert added["status"] == "AVAILABLE", added
    return added["id"]


@pytest.mark.parametrize("target", ["gate", "router", "w1", "gate_up_proj", "experts", "model.layers.0.mlp.gate"])
def test_experts_and_routers_get_no_adapter(client, mixture, target):
    answer = client.post("/api/training", json={"model_id": mixture, "job_name": "j", "target_modules": [target]})
    assert answer.status_code == 422, answer.text
    assert "it has: k_proj, o_proj, q_proj, v_proj." in answer.json()["error"]


@pytest.mark.parametrize(
    ("body", "said"), [({}, True), ({"target_modules": ["q_proj"]}, True), ({"method": "full"}, False)]
)
def test_that_experts_are_not_trained_is_said(client, mixture, body, said):
    answer = client.post("/api/training", json={"model_id": mixture, "job_name": "j"} | body)
    assert answer.status_code == 201, answer.text
    assert ("experts and routers are not trained" in answer.json()["message"]) == said


@pytest.mark.parametrize(
    "body", [{}, {"method": "full"}, {"target_modules": ["model.language_model.layers.0.mlp.up_proj"]}]
)
def test_that_what_sees_is_not_trained_is_said(client, tiny_models_dir, body):
    save_family("gemma3", tiny_models_dir / "seeing")
    model_id = client.post("/api/models", json={"name": "s", "base_model": "seeing"}).json()["id"]
    answer = client.post("/api/training", json={"model_id": model_id, "job_name": "j"} | body)
    assert answer.status_code == 201, answer.text
    assert "the model's vision tower is neither trained nor asked" in answer.json()["message"]
    of_tower = {"model_id": model_id, "job_name": "j", "target_modules": ["out_proj"]}
    assert "out_proj, which is no linear layer" in client.post("/api/training", json=of_tower).json()["error"]


def test_deleting_a_model_that_was_never_champion_says_nothing_of_it(client):
    model_id = client.post("/api/models", json={"name": "x", "base_model": "tiny-gpt2"}).json()["id"]
    assert client.delete(f"/api/models/{model_id}").json()["note"] is None
