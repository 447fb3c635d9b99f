"""A user's own data: uploaded, trained on, evaluated on, and in MLflow by the hash of its content."""

import json

from mlflow import MlflowClient


def upload(platform, rows, **fields):
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    response = platform.http.post("/datasets", files={"file": ("colours.jsonl", content)}, data=fields)
    assert response.status_code == 201, response.text
    return response.json()


def test_an_uploaded_data_set_is_trained_on_and_evaluated_on(platform, tiny_model):
    rows = [{"instruction": f"Colour {number}?", "input": "", "output": f"Blue {number}."} for number in range(40)]
    dataset = upload(platform, rows, held_out_fraction="0.25", model_id=str(tiny_model))
    assert (dataset["report"]["shape"], dataset["rows"]) == ("alpaca", 40)
    job_id = platform.train(model_id=tiny_model, dataset_id=dataset["id"], max_steps=5, max_seq_length=64, lora_r=2)
    job = platform.wait_for_job(job_id, "COMPLETED")
    assert "colours.jsonl" in job["logs"]
    run = MlflowClient(platform.mlflow_url).get_run(job["mlflow_run_id"])
    assert [used.dataset.name for used in run.inputs.dataset_inputs] == ["colours.jsonl"]
    body = {"dataset_id": dataset["id"], "max_samples": 4, "metrics": ["perplexity"]}
    evaluated = platform.http.post(f"/models/{job['output_model_id']}/evaluate", json=body)
    assert evaluated.status_code == 201, evaluated.text
    assert evaluated.json()["metrics"]["perplexity"] > 1
    assert platform.http.delete(f"/datasets/{dataset['id']}").status_code == 200
