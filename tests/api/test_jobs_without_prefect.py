"""What is accepted while the other parts are down is kept, once; what needs them says so."""


def create(client, model_id, key=None, **body):
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/api/training", json={"model_id": model_id, "job_name": "job", **body}, headers=headers)


def test_a_job_is_accepted_and_shown_with_every_default(client, tiny_model):
    created = create(client, tiny_model["id"]).json()
    assert created["status"] == "PENDING"
    job = client.get(f"/api/training/{created['id']}").json()
    expected = {
        "epochs": 3,
        "learning_rate": 1e-4,
        "batch_size": 8,
        "lora_r": 8,
        "lora_alpha": 32,
        "lora_dropout": 0.05,
    }
    assert {name: job[name] for name in expected} == expected
    assert (job["progress"], job["current_loss"], job["logs"], job["started_at"]) == (0.0, None, "", None)


def test_pausing_or_resuming_needs_prefect_or_the_right_status(client, tiny_model):
    job_id = create(client, tiny_model["id"]).json()["id"]
    pause = client.post(f"/api/training/{job_id}/pause")
    assert pause.status_code == 503
    assert "Prefect" in pause.json()["error"]
    resume = client.post(f"/api/training/{job_id}/resume")
    assert resume.status_code == 409
    assert "PENDING" in resume.json()["error"]


def test_evaluating_needs_prefect_and_leaves_nothing_behind(client, tiny_model):
    response = client.post(f"/api/models/{tiny_model['id']}/evaluate")
    assert response.status_code == 503
    assert response.headers["Retry-After"]
    assert client.get("/api/evaluations").json() == {"evaluations": [], "next_after": None}


def test_generating_needs_the_engine(client, tiny_model):
    response = client.post(f"/api/models/{tiny_model['id']}/generate", json={"prompt": "Hi"})
    assert response.status_code == 503
    assert "engine" in response.json()["error"]
    assert client.get("/api/statistics").json()["total_generations"] == 0


def test_the_same_key_and_body_is_the_same_job(client, tiny_model):
    first = create(client, tiny_model["id"], key="one", max_steps=5)
    again = create(client, tiny_model["id"], key="one", max_steps=5)
    assert first.status_code == again.status_code == 201
    assert first.json() == again.json()
    other_body = create(client, tiny_model["id"], key="one", max_steps=6)
    assert other_body.status_code == 409
    other_key = create(client, tiny_model["id"], key="two", max_steps=5)
    assert other_key.json()["id"] == first.json()["id"] + 1


def test_a_key_belongs_to_its_path(client):
    body = {"name": "x", "base_model": "tiny-gpt2"}
    first = client.post("/api/models", json=body, headers={"Idempotency-Key": "one"})
    assert first.status_code == 201
    reordered = {"base_model": "tiny-gpt2", "name": "x"}
    assert client.post("/api/models", json=reordered, headers={"Idempotency-Key": "one"}).json() == first.json()


def test_the_key_of_a_deleted_model_makes_a_new_one(client):
    body, headers = {"name": "x", "base_model": "tiny-gpt2"}, {"Idempotency-Key": "of a deleted model"}
    first = client.post("/api/models", json=body, headers=headers).json()["id"]
    assert client.delete(f"/api/models/{first}").status_code == 200
    second = client.post("/api/models", json=body, headers=headers).json()["id"]
    assert second > first
    assert client.get(f"/api/models/{second}").status_code == 200


def test_health_says_which_parts_are_missing(client):
    health = client.get("/api/health").json()
    assert health["status"] == "degraded"
    assert health["version"] == "1.0.0"
    assert set(health["parts"]) == {"database", "prefect", "mlflow", "worker", "engine", "controller"}
    assert health["parts"]["prefect"]["status"] == "starting"
