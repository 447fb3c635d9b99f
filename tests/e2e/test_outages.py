"""A part is down: what needs it says so, the rest works, and everything recovers by itself."""


def down(platform, part: str):
    platform.control("stop", part)
    platform.wait_until(
        lambda: platform.http.get("/health").json()["parts"][part]["status"] == "down", 20, f"{part} to be down"
    )


def up(platform, part: str):
    platform.control("start", part)
    platform.wait_until(lambda: platform.health() == "healthy", 120, "everything to be back")


def assert_names(response, part: str):
    assert response.status_code == 503, response.text
    assert part in response.json()["error"].lower()
    assert int(response.headers["Retry-After"]) > 0


def test_mlflow_down(platform, tiny_model):
    down(platform, "mlflow")
    try:
        assert platform.health() == "degraded"
        assert_names(platform.http.post(f"/models/{tiny_model}/evaluate"), "mlflow")
        assert platform.http.post("/models/1/generate", json={"prompt": "Hi", "max_new_tokens": 2}).status_code == 200
        # A job waits for its tracking server and loses nothing.
        job_id = platform.train(model_id=tiny_model, max_steps=3)
        platform.wait_until(
            lambda: "Waiting for the MLflow server" in platform.job(job_id)["logs"], 60, "the job to wait"
        )
        platform.wait_for_job(job_id, "RUNNING", seconds=5)
    finally:
        up(platform, "mlflow")
    assert platform.wait_for_job(job_id, "COMPLETED")["output_model_id"]


def test_prefect_down(platform, tiny_model):
    running = platform.train(model_id=tiny_model, max_steps=3)
    platform.wait_for_job(running, "COMPLETED")
    down(platform, "prefect")
    try:
        assert_names(platform.http.post(f"/models/{tiny_model}/evaluate"), "prefect")
        assert platform.http.get("/training").status_code == 200
        assert platform.http.get("/statistics").status_code == 200
        key = {"Idempotency-Key": "while-prefect-is-down"}
        body = {"model_id": tiny_model, "job_name": "accepted while Prefect is down", "max_steps": 2}
        answers = [platform.http.post("/training", json=body, headers=key) for _ in range(3)]
        assert {answer.status_code for answer in answers} == {201}
        (job_id,) = {answer.json()["id"] for answer in answers}
        assert_names(platform.http.post(f"/training/{job_id}/pause"), "prefect")
        assert platform.job(job_id)["status"] == "PENDING"
    finally:
        up(platform, "prefect")
    job = platform.wait_for_job(job_id, "COMPLETED")
    assert job["attempt"]["number"] == 1
    same_name = [
        job for job in platform.http.get("/training").json()["training_jobs"] if job["job_name"] == body["job_name"]
    ]
    assert [job["id"] for job in same_name] == [job_id]


def test_engine_down(platform, tiny_model):
    down(platform, "engine")
    try:
        assert_names(platform.http.post("/models/1/generate", json={"prompt": "Hi"}), "engine")
        assert platform.http.get("/models").status_code == 200
    finally:
        up(platform, "engine")
    assert platform.http.post("/models/1/generate", json={"prompt": "Hi", "max_new_tokens": 2}).status_code == 200
