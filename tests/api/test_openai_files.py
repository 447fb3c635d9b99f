"""OpenAI's SDK drives our data sets as its files; the API is in process."""

import json

import openai
import pytest
from openai.types import FileObject

from registry.clock import utcnow
from registry.repositories.training_jobs import TrainingJobRepository

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {n} + {n}?"},
            {"role": "assistant", "content": f"It is {2 * n}."},
        ]
    }
    for n in range(12)
]


def as_jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture(scope="module")
def file(sdk, tiny_model) -> FileObject:
    return sdk.files.create(file=("sums.jsonl", as_jsonl(ROWS)), purpose="fine-tune")


def test_an_uploaded_file_is_a_checked_data_set(sdk, client, file):
    assert (file.filename, file.purpose, file.status) == ("sums.jsonl", "fine-tune", "processed")
    assert sdk.files.retrieve(file.id) == file
    dataset = client.get(f"/api/datasets/{file.id.removeprefix('file-')}").json()
    assert (dataset["rows"], dataset["status"], dataset["report"]["shape"]) == (12, "READY", "messages")
    assert "purpose" not in dataset["settings"]


def test_its_content_comes_back_row_by_row_and_has_the_size_that_is_told(sdk, file):
    content = sdk.files.content(file.id).read()
    assert [json.loads(line) for line in content.splitlines()] == ROWS
    assert file.bytes == len(content)
    built_in = sdk.files.retrieve("file-1")
    assert built_in.bytes == len(sdk.files.content("file-1").read()) > 100_000


def test_settings_of_a_data_set_come_as_extra_body_and_the_same_key_makes_one_file(sdk, client, file):
    first, again = (
        sdk.files.create(
            file=("sums.jsonl", as_jsonl(ROWS)),
            purpose="fine-tune",
            extra_body={"held_out_fraction": "0.5", "name": "halves"},
            extra_headers={"Idempotency-Key": "halves"},
        )
        for _ in range(2)
    )
    assert first == again
    assert first.filename == "halves"
    settings = client.get(f"/api/datasets/{first.id.removeprefix('file-')}").json()["settings"]
    assert settings["held_out_fraction"] == 0.5
    assert sdk.files.delete(first.id).deleted
    with pytest.raises(openai.NotFoundError):
        sdk.files.retrieve(first.id)
    assert sdk.files.content(file.id).read(), "the other file with the same rows stays"


def test_lists_go_on_to_the_end_in_either_order(sdk, file):
    ids = [one.id for one in sdk.files.list(limit=1)]
    assert ids == [one.id for one in sdk.files.list()]
    assert ids[-1] == "file-1"
    assert file.id in ids
    assert [one.id for one in sdk.files.list(limit=1, order="asc")] == ids[::-1]
    assert list(sdk.files.list(purpose="vision")) == []


@pytest.mark.parametrize(
    ("rows", "purpose", "said"),
    [
        (ROWS, "batch", "purpose is 'batch', but input should be 'fine-tune'"),
        ([*ROWS, {"messages": [{"role": "user", "content": "Why?"}]}], "fine-tune", "the first is number 13"),
    ],
)
def test_what_is_wrong_with_a_file(sdk, rows, purpose, said):
    before = [one.id for one in sdk.files.list()]
    with pytest.raises(openai.BadRequestError, match=said) as raised:
        sdk.files.create(file=("wrong.jsonl", as_jsonl(rows)), purpose=purpose)
    assert isinstance(raised.value.body, dict)
    assert raised.value.body.keys() >= {"message", "type", "param", "code"}
    assert [one.id for one in sdk.files.list()] == before


def test_a_file_that_is_no_form_is_refused(client):
    answer = client.post("/v1/files", json={"dataset": "gsm8k"})
    assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")


@pytest.mark.parametrize("name", ["file-77", "file-0", "file-results-77", "thing", "ftjob-1"])
def test_unknown_files(sdk, name):
    for ask in (sdk.files.retrieve, sdk.files.content, sdk.files.delete):
        with pytest.raises(openai.NotFoundError):
            ask(name)


def test_a_file_in_use_is_not_deleted(sdk, job, file):
    job_id = job(status="RUNNING", dataset_id=1, held_out_dataset_id=int(file.id.removeprefix("file-")))
    with pytest.raises(openai.ConflictError, match=f"training job {job_id}"):
        sdk.files.delete(file.id)


def test_an_ended_jobs_step_metrics_are_a_file(sdk, database, job):
    job_id = job(status="RUNNING")
    events = [
        ("step", {"step": 1, "epoch": 1, "loss": 2.5, "learning_rate": 1e-4, "tokens_per_second": 100.0}),
        ("step", {"step": 2, "epoch": 1, "loss": 2.25, "learning_rate": 5e-5, "tokens_per_second": 110.0}),
        ("evaluation", {"step": 2, "eval_loss": 2.0}),
    ]
    with database.transaction() as session:
        TrainingJobRepository(session).add_events(job_id, events)
    assert sdk.fine_tuning.jobs.retrieve(f"ftjob-{job_id}").result_files == []
    with pytest.raises(openai.NotFoundError):
        sdk.files.content(f"file-results-{job_id}")
    with database.transaction() as session:
        jobs = TrainingJobRepository(session)
        jobs.record_state(jobs.require(job_id), "CANCELLED", utcnow())
    (name,) = sdk.fine_tuning.jobs.retrieve(f"ftjob-{job_id}").result_files
    content = sdk.files.content(name).text
    assert content == (
        "step,train_loss,valid_loss,learning_rate,tokens_per_second\n1,2.5,,0.0001,100.0\n2,2.25,2.0,5e-05,110.0\n"
    )
    shown = sdk.files.retrieve(name)
    assert (shown.purpose, shown.bytes) == ("fine-tune-results", len(content))
    assert shown in list(sdk.files.list(purpose="fine-tune-results"))
    with pytest.raises(openai.ConflictError):
        sdk.files.delete(name)
