"""Fine-tuning end to end: the loss moves, the new model is better, all of it is counted, shown everywhere, and kept."""

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

STEPS = 16
REGISTERED_MODEL = "HuggingFaceTB--SmolLM2-135M-Instruct"
METRICS = {"perplexity", "bleu_score", "rouge_score", "response_diversity", "avg_response_length"}


@pytest.fixture(scope="module")
def trained(platform):
    """A job on the built-in data with the defaults but for a few short steps; what was seen of it on its way."""
    before = platform.http.get("/statistics").json()
    job_id = platform.train(
        model_id=1, job_name="Docstrings", max_steps=STEPS, learning_rate=1e-3, batch_size=4, max_seq_length=128
    )
    seen = []

    def watch():
        job = platform.job(job_id)
        seen.append((job["status"], job["progress"], job["current_loss"]))
        return job if job["status"] in ("COMPLETED", "FAILED", "CANCELLED") else None

    job = platform.wait_until(watch, 600, "the job to end")
    assert job["status"] == "COMPLETED", job
    return {"job": job, "seen": seen, "statistics": before}


def test_status_progress_and_loss_move(trained):
    statuses = list(dict.fromkeys(status for status, _, _ in trained["seen"]))
    assert statuses[-2:] == ["RUNNING", "COMPLETED"]
    assert set(statuses) <= {"PENDING", "RUNNING", "COMPLETED"}
    assert len({progress for _, progress, _ in trained["seen"]}) > 3
    assert len({loss for _, _, loss in trained["seen"] if loss is not None}) > 3
    job = trained["job"]
    assert (job["progress"], job["step"], job["total_steps"]) == (100.0, STEPS, STEPS)
    assert job["started_at"] < job["completed_at"]
    assert f"Training {STEPS} steps" in job["logs"]
    plan = job["memory_plan"]
    assert (plan["micro_batch"], plan["gradient_accumulation"], plan["recompute"]) == (4, 1, False)
    assert plan["estimated_gb"] < plan["available_gb"]
    assert f"Memory: about {plan['estimated_gb']:.2f} GB of " in job["logs"]
    assert "held-out loss" in job["logs"]


def test_the_new_model_beats_its_base_on_held_out_rows(platform, trained):
    length = trained["job"]["recipe"]["max_seq_length"]
    body = {"max_samples": 32, "max_new_tokens": 16, "max_seq_length": length}
    answers = [
        platform.http.post(f"/models/{model_id}/evaluate", json=body | chosen).json()
        for model_id, chosen in ((1, {"metrics": ["perplexity"]}), (trained["job"]["output_model_id"], {}))
    ]
    base, tuned = (answer["metrics"] for answer in answers)
    assert set(base) == set(tuned) == METRICS | {f"{name}_ci95" for name in METRICS}
    assert tuned["perplexity"] < 0.9 * base["perplexity"]
    for name in METRICS:
        low, high = tuned[f"{name}_ci95"]
        assert low <= tuned[name] <= high, (name, tuned)
    assert_mlflow_holds(platform, answers[1])
    assert_samples_make_up_the_metrics(platform, answers[1], body["max_samples"])
    ids = [answer["id"] for answer in answers]
    comparison = platform.http.get("/evaluations/compare", params={"ids": "{},{}".format(*ids)}).json()
    assert comparison["rows"] == body["max_samples"]
    (note,) = comparison["notes"]
    assert note.startswith(f"Left out, as only evaluation {ids[1]} has it: bleu_score")
    assert set(comparison["metrics"]) == {"perplexity"}
    perplexity = comparison["metrics"]["perplexity"]
    assert perplexity["values"] == [base["perplexity"], tuned["perplexity"]]
    assert perplexity["better"] == ids[1]


def assert_mlflow_holds(platform, answer):
    from mlflow import MlflowClient

    evaluation = platform.http.get(f"/evaluations/{answer['id']}").json()
    assert evaluation["progress"] == 100
    assert {name: evaluation[name] for name in answer["metrics"]} == answer["metrics"]
    tracked = MlflowClient(platform.mlflow_url).get_run(evaluation["mlflow_run_id"]).data.metrics
    low, high = answer["metrics"]["perplexity_ci95"]
    assert (tracked["perplexity_ci95_low"], tracked["perplexity_ci95_high"]) == (low, high)
    assert {f"{name}_ci95_{end}" for name in METRICS for end in ("low", "high")} <= set(tracked)
    table = load_table(platform, evaluation["mlflow_run_id"])
    assert set(table["columns"]) == METRICS | {"prompt", "response", "reference"}


def load_table(platform, run_id):
    import mlflow

    path = mlflow.artifacts.download_artifacts(
        run_id=run_id, artifact_path="samples.json", tracking_uri=platform.mlflow_url
    )
    return json.loads(Path(path).read_text(encoding="utf-8"))


def assert_samples_make_up_the_metrics(platform, answer, count):
    path = f"/evaluations/{answer['id']}/samples"
    samples = platform.http.get(path, params={"order": "first", "limit": count + 1}).json()["samples"]
    assert len(samples) == count
    for name in ("rouge_score", "avg_response_length"):
        mean = sum(sample["scores"][name] for sample in samples) / count
        assert mean == pytest.approx(answer["metrics"][name])
    worst = platform.http.get(path, params={"limit": 1}).json()["samples"][0]
    assert worst["scores"]["rouge_score"] == min(sample["scores"]["rouge_score"] for sample in samples)


def test_the_new_model_answers_and_the_old_one_is_as_it_was(platform, trained):
    new = platform.http.get(f"/models/{trained['job']['output_model_id']}").json()
    assert (new["status"], new["base_model"]) == ("AVAILABLE", "HuggingFaceTB/SmolLM2-135M-Instruct")
    assert new["parameters"]["parent_model_id"] == 1
    assert new["parameters"]["training_job_id"] == trained["job"]["id"]
    assert new["parameters"]["weights_step"] == STEPS
    prompt = {"prompt": "The Python function json.loads", "temperature": 0, "max_new_tokens": 12}
    answers = {
        model_id: platform.http.post(f"/models/{model_id}/generate", json=prompt).json() for model_id in (1, new["id"])
    }
    assert all(answer["generated_tokens"] > 0 for answer in answers.values())
    assert answers[1]["text"] != answers[new["id"]]["text"]
    assert platform.http.get("/models/1").json()["parameters"] is None


def test_statistics_count_the_job_and_the_model(platform, trained):
    before, after = trained["statistics"], platform.http.get("/statistics").json()
    assert after["total_training_jobs"] == before["total_training_jobs"] + 1
    assert after["completed_training_jobs"] == before["completed_training_jobs"] + 1
    assert after["total_models"] == before["total_models"] + 1
    assert after["total_generations"] >= before["total_generations"] + 2


def test_mlflow_holds_params_metrics_artifacts_dataset_and_version(platform, trained):
    from mlflow import MlflowClient

    client = MlflowClient(platform.mlflow_url)
    job = trained["job"]
    run = client.get_run(job["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["training_job_id"] == str(job["id"])
    assert run.data.tags["model_id"] == "1"
    assert run.data.tags["prefect.flow_run_id"] == job["flow_run_id"]
    assert {name: run.data.params[name] for name in ("lora_r", "learning_rate", "max_steps")} == {
        "lora_r": "8",
        "learning_rate": "0.001",
        "max_steps": str(STEPS),
    }
    for metric in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
        steps = [point.step for point in client.get_metric_history(job["mlflow_run_id"], metric)]
        assert sorted(steps) == list(range(1, STEPS + 1)), metric
    assert [point.step for point in client.get_metric_history(job["mlflow_run_id"], "eval_loss")] == [STEPS]
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["Python standard library docstrings"]
    artifacts = {entry.path for entry in client.list_artifacts(job["mlflow_run_id"])}
    assert {"adapter", "loss_curve.png", "samples.json"} <= artifacts
    adapter = {entry.path for entry in client.list_artifacts(job["mlflow_run_id"], "adapter")}
    assert {"adapter/adapter_model.safetensors", "adapter/tokenizer.json", "adapter/chat_template.jinja"} <= adapter
    (version,) = client.search_model_versions(f"run_id = '{job['mlflow_run_id']}'")
    assert version.name == REGISTERED_MODEL


def test_prefect_shows_progress_and_a_link_to_the_mlflow_run(platform, trained):
    job = trained["job"]
    run = httpx.get(f"{platform.prefect_url}/flow_runs/{job['flow_run_id']}").json()
    assert run["state_type"] == "COMPLETED"
    query = {"artifacts": {"flow_run_id": {"any_": [job["flow_run_id"]]}}}
    artifacts = {
        entry["type"]: entry for entry in httpx.post(f"{platform.prefect_url}/artifacts/filter", json=query).json()
    }
    assert artifacts["progress"]["data"] > 0
    assert job["mlflow_run_id"] in artifacts["markdown"]["data"]


def test_the_registered_version_answers_in_a_fresh_process(platform, trained):
    # Forced: a few steps need not make it better than its base.
    platform.http.post(f"/models/{trained['job']['output_model_id']}/promote", json={"force": True}).raise_for_status()
    code = (
        "import json, mlflow\n"
        f"model = mlflow.pyfunc.load_model('models:/{REGISTERED_MODEL}@champion')\n"
        "print(json.dumps(model.predict(['The capital of France is'])))"
    )
    environment = {**os.environ, "MLFLOW_TRACKING_URI": platform.mlflow_url}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=240, check=False
    )
    assert run.returncode == 0, run.stderr
    (text,) = json.loads(run.stdout.splitlines()[-1])
    assert text.startswith("The capital of France is")
    assert len(text) > len("The capital of France is")


def test_a_gpt2_of_the_local_folder_is_trained_evaluated_and_generated_from(platform):
    created = platform.http.post("/models", json={"name": "Tiny GPT-2", "base_model": "tiny-gpt2"}).json()
    assert created["status"] == "AVAILABLE"
    job_id = platform.train(model_id=created["id"], max_steps=12, learning_rate=5e-3, eval_every=6, lora_r=4)
    job = platform.wait_for_job(job_id, "COMPLETED")
    answers = [
        platform.http.post(f"/models/{model_id}/evaluate", json={"max_samples": 16, "metrics": ["perplexity"]}).json()
        for model_id in (created["id"], job["output_model_id"])
    ]
    assert answers[1]["metrics"]["perplexity"] < answers[0]["metrics"]["perplexity"]
    assert_only_perplexity(platform, answers[1])
    prompt = {"prompt": "def main", "max_length": 20, "seed": 7}
    texts = [platform.http.post(f"/models/{job['output_model_id']}/generate", json=prompt).json()["text"] for _ in "ab"]
    assert texts[0] == texts[1]
    assert texts[0].startswith("def main")


def assert_only_perplexity(platform, answer):
    from mlflow import MlflowClient

    computed = {name for name, value in answer["metrics"].items() if value is not None}
    assert computed == {"perplexity", "perplexity_ci95"}
    evaluation = platform.http.get(f"/evaluations/{answer['id']}").json()
    assert evaluation["progress"] == 100
    tracked = MlflowClient(platform.mlflow_url).get_run(evaluation["mlflow_run_id"]).data.metrics
    assert set(tracked) == {"perplexity", "perplexity_ci95_low", "perplexity_ci95_high"}
    table = load_table(platform, evaluation["mlflow_run_id"])
    assert table["columns"] == ["prompt", "reference", "perplexity"]
    assert len(table["data"]) == 16


def test_a_run_started_from_prefects_form_is_a_job_like_any_other(platform):
    created = platform.http.post("/models", json={"name": "Tiny Llama", "base_model": "tiny-llama"}).json()
    deployment = httpx.get(f"{platform.prefect_url}/deployments/name/finetune/finetune").json()
    parameters = {"job": {"model_id": created["id"], "job_name": "From the form", "max_steps": 2}}
    run = httpx.post(
        f"{platform.prefect_url}/deployments/{deployment['id']}/create_flow_run", json={"parameters": parameters}
    ).json()

    def adopted():
        jobs = platform.http.get("/training").json()["training_jobs"]
        return next((job for job in jobs if job["job_name"] == "From the form"), None)

    job = platform.wait_until(adopted, 2, "the form's run to show in the API")
    done = platform.wait_for_job(job["id"], "COMPLETED")
    assert done["flow_run_id"] == run["id"]
    assert done["output_model_id"] is not None
    # The form itself shows every hyperparameter with its bounds.
    definitions = deployment["parameter_openapi_schema"]["definitions"]["FinetuneParameters"]["properties"]
    assert definitions["lr_scheduler"]["enum"] == ["linear", "cosine", "constant"]
    assert definitions["lora_r"]["minimum"] == 1


def test_everything_is_there_after_a_restart(platform, trained):
    def snapshot():
        answers = {
            path: platform.http.get(path).json() for path in ("/models", "/training", "/evaluations", "/statistics")
        }
        answers["/statistics"].pop("timestamp")
        for model in answers["/models"]["models"]:
            model.pop("updated_at")
        return answers

    before = snapshot()
    platform.stop()
    platform.start()
    assert snapshot() == before
    prompt = {"prompt": "Hello", "max_new_tokens": 4}
    answer = platform.http.post(f"/models/{trained['job']['output_model_id']}/generate", json=prompt)
    assert answer.status_code == 200, answer.text
