"""A model trained as a whole is a model like any other: it answers, is trained from and deleted."""

from mlflow import MlflowClient

JOB = {"max_steps": 5, "max_seq_length": 64, "batch_size": 2, "learning_rate": 5e-3}
PROMPT = {"prompt": "The quick brown fox", "max_new_tokens": 8, "temperature": 0}


def made_by(platform, **body):
    job = platform.wait_for_job(platform.train(**JOB, **body), "COMPLETED")
    return job, platform.http.get(f"/models/{job['output_model_id']}").json()


def answer(platform, model):
    response = platform.http.post(f"/models/{model['id']}/generate", json=PROMPT)
    assert response.status_code == 200, response.text
    return response.json()["text"]


def test_a_model_trained_as_a_whole_and_an_adapter_on_it(platform, tiny_model):
    folder = platform.data_dir / "weights"
    before = set(folder.iterdir()) if folder.exists() else set()
    job, whole = made_by(platform, model_id=tiny_model, method="full")
    assert (job["lora_r"], job["recipe"]["method"], whole["base_model"]) == (None, "full", "tiny-llama")
    assert (whole["parameters"]["method"], "lora_r" in whole["parameters"]) == ("full", False)
    _, above = made_by(platform, model_id=whole["id"], method="rslora", lora_r=2)
    texts = {answer(platform, model) for model in ({"id": tiny_model}, whole, above)}
    assert len(texts) == 3
    names = [
        model["id"] for model in platform.http.get(f"http://localhost:{platform.ports['api']}/v1/models").json()["data"]
    ]
    assert f"ft:tiny-llama:a-job:{whole['id']}" in names

    version = whole["parameters"]
    source = MlflowClient(platform.mlflow_url).get_model_version(
        version["registered_model"], version["registered_model_version"]
    )
    assert source.run_id == job["mlflow_run_id"]

    refused = platform.http.delete(f"/models/{whole['id']}")
    assert (refused.status_code, f"model {above['id']}" in refused.json()["error"]) == (409, True)
    assert len(set(folder.iterdir()) - before) == 1
    assert platform.http.delete(f"/models/{above['id']}").status_code == 200
    assert answer(platform, whole), "an adapter does not take the weights below it along"
    assert platform.http.delete(f"/models/{whole['id']}").status_code == 200
    assert set(folder.iterdir()) == before
