"""A service is down: what needs it says so, the rest works, and everything recovers by itself."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import httpx


def down(platform, service: str):
    platform.control("stop", service)
    platform.wait_until(
        lambda: platform.http.get("/health").json()["parts"][service]["status"] == "down",
        20,
        f"{service} to be down",
    )


def up(platform, service: str):
    platform.control("start", service)
    platform.wait_until(lambda: platform.health() == "healthy", 120, "everything to be back")


def assert_names(response, service: str):
    assert response.status_code == 503, response.text
    assert service in response.json()["error"].lower()
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


def test_controller_down(platform, tiny_model):
    """Requests and training go on; what Prefect says of them shows when a controller is back."""
    down(platform, "controller")
    try:
        assert platform.health() == "degraded"
        assert_names(platform.http.post(f"/models/{tiny_model}/evaluate"), "controller")
        assert platform.http.post("/models/1/generate", json={"prompt": "Hi", "max_new_tokens": 2}).status_code == 200
        job_id = platform.train(model_id=tiny_model, max_steps=3)
        platform.wait_until(lambda: platform.job(job_id)["step"] == 3, 120, "the job to train")
    finally:
        up(platform, "controller")
    assert platform.wait_for_job(job_id, "COMPLETED", seconds=30)["output_model_id"]


def test_a_killed_controller_is_replaced_at_once(platform, tiny_model):
    before = platform.pid("controller")
    os.kill(before, signal.SIGKILL)
    platform.wait_until(lambda: platform.pid("controller") not in (0, before), 30, "another controller")
    job_id = platform.train(model_id=tiny_model, max_steps=3)
    platform.wait_for_job(job_id, "COMPLETED", seconds=120)
    platform.wait_until(lambda: platform.health() == "healthy", 60, "every loop to pass again")


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


def test_an_engine_killed_under_load_loses_only_what_it_was_answering(platform):
    """As many as there are places get a 503 and may come again; those behind them are answered by its successor."""
    places = 32

    def generate(tokens: int) -> httpx.Response:
        body = {"prompt": "Count to a thousand: one,", "temperature": 0, "max_new_tokens": tokens}
        return platform.http.post("/models/1/generate", json=body)

    def counts() -> tuple[int, int]:
        health = httpx.get(f"http://127.0.0.1:{platform.ports['engine']}/health").json()
        return health["running"], health["waiting"]

    with ThreadPoolExecutor(places + 8) as clients:
        answered = [clients.submit(generate, 1000) for _ in range(places)]
        platform.wait_until(lambda: counts() == (places, 0), 60, "every place to be taken")
        behind = [clients.submit(generate, 3) for _ in range(8)]
        platform.wait_until(lambda: counts() == (places, 8), 60, "the others to be in line")
        os.kill(platform.pid("engine"), signal.SIGKILL)
        for future in answered:
            assert_names(future.result(), "engine")
        assert [future.result().status_code for future in behind] == [200] * 8
    assert len({future.result().json()["text"] for future in behind}) == 1
    assert counts() == (0, 0)
