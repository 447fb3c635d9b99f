"""Benchmarks started through Prefect's REST: numbers and samples are in MLflow, and what fails says why in both."""

import json
from pathlib import Path

import httpx
import pytest
from mlflow import MlflowClient

from tests.tasks.harness.task_folder import ANSWER_TASK, CHOICE_ROWS, CHOICE_TASK, write_task


@pytest.fixture(scope="module")
def benchmarks(platform):
    """Two tasks that can be measured, and one that names a data set of the hub, in the platform's folder."""
    folder = platform.data_dir / "benchmarks"
    write_task(folder, CHOICE_TASK, CHOICE_ROWS)
    write_task(folder, ANSWER_TASK, [{"question": row["question"], "answer": "bright."} for row in CHOICE_ROWS])
    write_task(folder, CHOICE_TASK, task="far", dataset_path="openai/gsm8k", dataset_kwargs=None)


def run(platform, **parameters):
    """Start the deployment as a client of Prefect's REST does; return the flow run's end and its MLflow run."""
    deployment = httpx.get(f"{platform.prefect_url}/deployments/name/benchmark/benchmark").json()["id"]
    started = httpx.post(
        f"{platform.prefect_url}/deployments/{deployment}/create_flow_run",
        json={"parameters": {"benchmark": parameters}},
    )
    assert started.status_code == 201, started.text
    url = f"{platform.prefect_url}/flow_runs/{started.json()['id']}"

    def ended():
        state = httpx.get(url).json()["state"]
        return state if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else None

    state = platform.wait_until(ended, 120, "the benchmark to end")
    client = MlflowClient(platform.mlflow_url)
    experiment = client.get_experiment_by_name("benchmark")
    query = f"tags.`prefect.flow_run_id` = '{started.json()['id']}'"
    (tracked,) = client.search_runs([experiment.experiment_id], query)
    return state, tracked


def read(platform, tracked, path):
    return json.loads(Path(MlflowClient(platform.mlflow_url).download_artifacts(tracked.info.run_id, path)).read_text())


def test_a_fine_tunes_numbers_are_in_mlflow_with_its_samples(platform, undisturbed, benchmarks):
    model_id = undisturbed["output_model_id"]
    state, tracked = run(platform, model_id=model_id, benchmark_name="Both", tasks=["which", "sums"], limit=4)
    assert state["type"] == "COMPLETED", state
    assert (tracked.info.status, tracked.info.run_name) == ("FINISHED", "Both")
    assert tracked.info.end_time > tracked.info.start_time
    assert tracked.data.tags["model_id"] == str(model_id)
    made = platform.http.get(f"/models/{model_id}").json()["parameters"]
    for tag in ("registered_model", "registered_model_version"):
        assert tracked.data.tags[tag] == made[tag]
    assert tracked.data.params["limit"] == "4"

    samples = read(platform, tracked, "samples/which.json")
    assert [sample["doc"] for sample in samples] == CHOICE_ROWS[:4]
    hits = []
    for sample in samples:
        likelihoods = [float(response[0][0]) for response in sample["resps"]]
        hits.append(likelihoods.index(max(likelihoods)) == sample["doc"]["gold"])
    assert tracked.data.metrics["which/acc"] == sum(hits) / 4
    assert {f"which/{metric}{end}" for metric in ("acc", "acc_norm") for end in ("", "_stderr")} < set(
        tracked.data.metrics
    )
    answers = [sample["resps"][0][0].strip() == "bright." for sample in read(platform, tracked, "samples/sums.json")]
    assert tracked.data.metrics["sums/exact_match"] == sum(answers) / 4
    assert read(platform, tracked, "results.json")["n-samples"]["sums"] == {"original": 5, "effective": 4}


def test_a_benchmark_whose_data_are_elsewhere_fails_and_says_so(platform, tiny_model, benchmarks):
    state, tracked = run(platform, model_id=tiny_model, tasks=["far"])
    assert state["type"] == "FAILED", state
    assert "The data of the task far" in state["message"]
    assert "openai/gsm8k" in state["message"]
    assert tracked.info.status == "FAILED"
