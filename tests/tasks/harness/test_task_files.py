"""Tasks come only from the files in the folder; what they lack is named, with the task and its file."""

import json
import pickle
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from configs.recipe import BenchmarkParameters
from tasks.benchmark import begin_benchmark
from tasks.harness.errors import DataUnreachable, HarnessMissing, TaskUnusable, UnknownTask
from tasks.harness.task_files import load_tasks
from tests.tasks.harness.task_folder import ANSWER_TASK, CHOICE_ROWS, CHOICE_TASK, write_task

EXAMPLE = Path(__file__).resolve().parents[3] / "configs" / "benchmarks" / "gsm8k.yaml"


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to leave this machine fails the test, however it is caught."""
    tried = []

    def refuse(*address):
        tried.append(address)
        raise AssertionError(f"the network was asked: {address}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield
    assert tried == []


def load(folder: Path, *names: str):
    return load_tasks(folder, names, cache_dir=folder / "cache")


def test_data_are_found_beside_the_task_file_wherever_the_process_runs(tmp_path, monkeypatch):
    write_task(tmp_path / "tasks" / "deep", CHOICE_TASK, CHOICE_ROWS)
    monkeypatch.chdir("/")
    tasks = load(tmp_path / "tasks", "which")["tasks"]
    assert [doc["question"] for doc in tasks["which"].eval_docs] == [row["question"] for row in CHOICE_ROWS]


def test_a_changed_data_file_is_read_anew(tmp_path):
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    load(tmp_path, "which")
    (tmp_path / "which.jsonl").write_text("".join(json.dumps(row) + "\n" for row in CHOICE_ROWS[:2]))
    assert len(load(tmp_path, "which")["tasks"]["which"].eval_docs) == 2


def test_a_group_brings_its_tasks_each_with_its_own_folder(tmp_path):
    write_task(tmp_path / "one", CHOICE_TASK, CHOICE_ROWS, task="first")
    write_task(tmp_path / "two", CHOICE_TASK, CHOICE_ROWS[:3], task="second")
    inline = {**CHOICE_TASK, "task": "third", "dataset_kwargs": {"data_files": {"test": "one/which.jsonl"}}}
    write_task(tmp_path, {"group": "all", "task": ["first", "second", inline]})
    loaded = load(tmp_path, "all")
    assert {name: len(task.eval_docs) for name, task in loaded["tasks"].items()} == {
        "first": 5,
        "second": 3,
        "all::third": 5,
    }


def test_python_that_a_task_file_names_is_that_of_its_folder(tmp_path):
    file = write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    file.write_text(file.read_text() + "process_docs: !function own.first_two\n")
    (tmp_path / "own.py").write_text("def first_two(rows):\n    return rows.select(range(2))\n")
    assert len(load(tmp_path, "which")["tasks"]["which"].eval_docs) == 2


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_no_pickle_is_read(tmp_path):
    (tmp_path / "rows.pkl").write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    file = write_task(tmp_path, CHOICE_TASK, dataset_path="pandas", dataset_kwargs={"data_files": {"test": "rows.pkl"}})
    with pytest.raises(TaskUnusable) as error:
        load(tmp_path, "which")
    assert f"which ({file})" in str(error.value)
    assert not (tmp_path / "sprung").exists()


def test_the_example_reads_gsm8k_like_rows(tmp_path):
    shutil.copy(EXAMPLE, tmp_path)
    row = {"question": "Nine and nine?", "answer": "Nine and nine are 9+9=18.\n#### 1,018"}
    for name in ("gsm8k-train.jsonl", "gsm8k-test.jsonl"):
        (tmp_path / name).write_text(json.dumps(row) + "\n")
    task = load(tmp_path, "gsm8k")["tasks"]["gsm8k"]
    assert [task.process_results(row, [answer]) for answer in ("$1018.", "18")] == [
        {"exact_match": 1},
        {"exact_match": 0},
    ]


def test_an_unknown_task_is_named_with_those_that_there_are(tmp_path):
    write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS)
    (tmp_path / "broken.yaml").write_text("task: [")
    with pytest.raises(UnknownTask) as error:
        load(tmp_path, "hellaswag")
    assert str(error.value) == (
        f"There is no task hellaswag in {tmp_path}. The tasks there: which. "
        "These files there define none, or can't be read: broken.yaml."
    )


def test_nothing_is_offered_where_there_is_no_folder(tmp_path):
    with pytest.raises(UnknownTask, match=r"The tasks there: none\."):
        load(tmp_path / "missing", "which")


def test_a_missing_data_file_is_named_with_task_and_file(tmp_path, no_network):
    file = write_task(tmp_path, CHOICE_TASK)
    with pytest.raises(DataUnreachable) as error:
        load(tmp_path, "which")
    assert str(error.value).startswith(f"The data of the task which ({file}) can't be reached: ")
    assert str(tmp_path / "which.jsonl") in str(error.value)


@pytest.mark.parametrize("dataset", ["openai/gsm8k", "no-such-data-set"])
def test_a_data_set_of_the_hub_is_refused_without_asking_for_it(tmp_path, no_network, dataset):
    file = write_task(tmp_path, CHOICE_TASK, dataset_path=dataset, dataset_kwargs=None)
    with pytest.raises(DataUnreachable) as error:
        load(tmp_path, "which")
    assert str(error.value).startswith(f"The data of the task which ({file}) can't be reached: ")
    assert dataset in str(error.value)


@pytest.mark.parametrize("address", ["https://example.org/rows.jsonl", "hf://datasets/openai/gsm8k/main/test.jsonl"])
def test_a_data_file_with_an_address_is_refused_without_asking_for_it(tmp_path, no_network, address):
    file = write_task(tmp_path, CHOICE_TASK, dataset_kwargs={"data_files": {"test": [address]}})
    with pytest.raises(DataUnreachable) as error:
        load(tmp_path, "which")
    assert f"which ({file})" in str(error.value)
    assert address in str(error.value)


def test_a_metric_whose_code_is_on_the_hub_is_refused(tmp_path, no_network):
    file = write_task(tmp_path, ANSWER_TASK, metric_list=[{"metric": "squad_v2"}])
    with pytest.raises(TaskUnusable) as error:
        load(tmp_path, "sums")
    assert f"sums ({file})" in str(error.value)
    assert "no metric squad_v2" in str(error.value)


def test_a_column_that_the_rows_lack_is_named_with_task_and_file(tmp_path):
    file = write_task(tmp_path, CHOICE_TASK, CHOICE_ROWS, doc_to_text="{{frage}}")
    with pytest.raises(TaskUnusable) as error:
        load(tmp_path, "which")
    assert f"which ({file})" in str(error.value)
    assert "'frage' is undefined" in str(error.value)


@pytest.mark.parametrize(("content", "words"), [("", "have no rows"), ('{"question": \n', "JSON")])
def test_a_damaged_data_file_is_said_to_be_so(tmp_path, content, words):
    file = write_task(tmp_path, CHOICE_TASK)
    (tmp_path / "which.jsonl").write_text(content)
    with pytest.raises(TaskUnusable) as error:
        load(tmp_path, "which")
    assert f"which ({file})" in str(error.value)
    assert words in str(error.value)


def test_a_benchmark_without_lm_eval_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    parameters = BenchmarkParameters(model_id=1, tasks=["which"])
    with pytest.raises(HarnessMissing, match=r"pip install -c constraints\.txt -e '\.\[benchmark\]'"):
        begin_benchmark(parameters).__enter__()


def test_the_flow_is_registered_without_lm_eval_and_without_torch():
    code = (
        "import sys\n"
        "sys.modules['lm_eval'] = None\n"
        "from flows.benchmark import benchmark\n"
        "fields = benchmark.parameters.definitions['BenchmarkParameters']['properties']\n"
        "print('torch' in sys.modules, sorted(fields))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == f"False {sorted(BenchmarkParameters.model_fields)}"
