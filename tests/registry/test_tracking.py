"""What a run stores in a real MLflow store, also when a second attempt stores it again."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from registry.tracking import TrackedRun

# MLflow's own warnings are not ours to fix.
pytestmark = pytest.mark.filterwarnings("default")

ROWS: dict[str, list] = {
    "prompt": ["naïve 🦊", 'a "quoted"\nline'],
    "response": ["", "1.0"],
    "perplexity": [None, 12.5],
}


@pytest.fixture(scope="module")
def tracking_uri(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as monkeypatch:
        # Artifacts go to the working directory, where the store is a database; load_table asks the global store.
        monkeypatch.chdir(folder)
        before = mlflow.get_tracking_uri()
        uri = f"sqlite:///{folder / 'mlflow.db'}"
        mlflow.set_tracking_uri(uri)
        yield uri
        mlflow.set_tracking_uri(before)


def open_run(tracking_uri: str, uid: str) -> TrackedRun:
    """As each attempt of the same job does."""
    return TrackedRun(tracking_uri, "evaluation", "a run", {"evaluation_uid": uid})


def stored(run: TrackedRun, name: str) -> dict[str, list]:
    path = mlflow.artifacts.download_artifacts(run_id=run.run_id, artifact_path=name)
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    return dict(zip(table["columns"], map(list, zip(*table["data"], strict=True)), strict=True))


def load_table(run: TrackedRun):
    return MlflowClient().load_table(run.experiment_id, "samples.json", run_ids=[run.run_id])


def test_a_table_that_a_second_attempt_stores_again_has_its_rows_once(tracking_uri):
    run = open_run(tracking_uri, "twice")
    run.log_table(ROWS, "samples.json")
    again = open_run(tracking_uri, "twice")
    assert again.run_id == run.run_id
    again.log_table(ROWS, "samples.json")
    assert stored(run, "samples.json") == ROWS
    loaded = load_table(run)
    assert loaded["prompt"].tolist() == ROWS["prompt"]
    assert loaded["perplexity"].isna().tolist() == [True, False]
    assert loaded["perplexity"][1] == 12.5


def test_a_table_replaces_what_mlflows_own_function_stored(tracking_uri):
    run = open_run(tracking_uri, "older version")
    run.client.log_table(run.run_id, {"prompt": ["old", "old", "old"]}, "samples.json")
    run.log_table(ROWS, "samples.json")
    assert stored(run, "samples.json") == ROWS
    assert len(load_table(run)) == 2


def test_each_table_of_a_run_is_listed_once_for_the_ui(tracking_uri):
    run = open_run(tracking_uri, "two tables")
    for name in ("samples.json", "others.json", "samples.json"):
        run.log_table(ROWS, name)
    listed = json.loads(run.client.get_run(run.run_id).data.tags["mlflow.loggedArtifacts"])
    assert listed == [{"path": "samples.json", "type": "table"}, {"path": "others.json", "type": "table"}]
    # As MLflow's own function lists and stores a table.
    other = open_run(tracking_uri, "by MLflow")
    other.client.log_table(other.run_id, ROWS, "samples.json")
    assert json.loads(other.client.get_run(other.run_id).data.tags["mlflow.loggedArtifacts"]) == listed[:1]
    assert stored(other, "samples.json") == ROWS


@pytest.mark.parametrize("columns", [{"a": [1, 2], "b": [1]}, {"a": [float("nan")]}])
def test_what_is_no_table_is_refused_before_anything_is_stored(tracking_uri, columns):
    run = open_run(tracking_uri, "refused")
    with pytest.raises(ValueError, match=r"shorter|JSON compliant"):
        run.log_table(columns, "samples.json")
    assert run.client.list_artifacts(run.run_id) == []


def history(run: TrackedRun, name: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in run.client.get_metric_history(run.run_id, name)]


def delete_run(run: TrackedRun) -> None:
    run.client.delete_run(run.run_id)


def delete_experiment(run: TrackedRun) -> None:
    run.client.delete_experiment(run.experiment_id)


@pytest.mark.parametrize("delete", [delete_run, delete_experiment])
def test_a_run_that_was_deleted_is_made_again_with_all_that_it_had(tracking_uri, delete):
    run = open_run(tracking_uri, f"by {delete.__name__}")
    first = run.run_id
    run.log_params({"lora_r": 8})
    run.set_tags({"model_id": "7"})
    run.log_dataset("rows", "abc", "upload", "training", "{}")
    told = []

    def replaced(why: str, empty: bool) -> None:
        told.append(why)
        if empty:
            run.forget_pending()
            run.add_metrics({"loss": 3.0}, 1)
            run.add_metrics({"loss": 2.0}, 2)

    run.on_replaced = replaced
    run.add_metrics({"loss": 3.0}, 1)
    run.flush()
    delete(run)
    run.add_metrics({"loss": 2.0}, 2)
    run.flush()
    assert history(run, "loss") == [(1, 3.0), (2, 2.0)]
    (why,) = told
    assert first in why
    assert (run.run_id == first) == (delete is delete_experiment)
    data = run.client.get_run(run.run_id)
    assert data.data.params == {"lora_r": "8"}
    assert data.data.tags["model_id"] == "7"
    assert [one.dataset.name for one in data.inputs.dataset_inputs] == ["rows"]
    assert open_run(tracking_uri, f"by {delete.__name__}").run_id == run.run_id


def test_what_is_delivered_to_a_deleted_run_goes_to_the_one_in_its_place(tracking_uri):
    run = open_run(tracking_uri, "delivered")
    delete_run(run)
    run.deliver(lambda: run.log_table(ROWS, "samples.json"), pytest.fail, "take the samples")
    assert stored(run, "samples.json") == ROWS
    assert run.client.get_run(run.run_id).info.lifecycle_stage == "active"


def test_an_error_that_is_no_deletion_stays_one(tracking_uri):
    run = open_run(tracking_uri, "wrong")
    run.log_params({"lora_r": 8})
    with pytest.raises(MlflowException, match="lora_r"):
        run.deliver(lambda: run.log_params({"lora_r": 9}), pytest.fail, "take the parameters")


def test_runs_that_log_one_data_set_at_a_moment_all_have_it(tracking_uri):
    """Two workers begin two jobs over a new data set: MLflow writes it down once, and refuses who was second."""
    runs = [open_run(tracking_uri, f"at once {number}") for number in range(4)]
    with ThreadPoolExecutor(len(runs)) as pool:
        for digest in map(str, range(20)):
            together = threading.Barrier(len(runs))

            def log(run: TrackedRun, digest: str = digest, together: threading.Barrier = together) -> None:
                together.wait()
                run.log_dataset("rows", digest, "upload", "training", "{}")

            list(pool.map(log, runs))
    for run in runs:
        inputs = run.client.get_run(run.run_id).inputs.dataset_inputs
        assert sorted(int(one.dataset.digest) for one in inputs) == list(range(20))


def test_a_data_set_that_can_not_be_logged_is_an_error(tracking_uri):
    run = open_run(tracking_uri, "no data set")
    with pytest.raises(MlflowException, match="name"):
        run.log_dataset("x" * 1000, "1", "upload", "training", "{}")
