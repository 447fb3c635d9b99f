"""The official `openai` package fine-tunes on the running platform: files, a paused job, checkpoints, a webhook."""

import csv
import json

import pytest

from tests.api.webhooks.receiver import ALL, Receiver, unwrapped

EPOCHS, ROWS, HELD_OUT, BATCH = 50, 24, 6, 2
STEPS = EPOCHS * ROWS // BATCH
PROMPTS = ["Colour 3?", "Blue", "What does the Python", "10"]
SETTINGS = {"max_seq_length": 64, "lora_r": 2, "eval_every": 200}


@pytest.fixture
def told(client):
    """Returns the next event that a webhook tells of, verified."""
    with Receiver() as receiver:
        endpoint = client.webhooks.create(name="test", url=receiver.url, event_types=ALL)
        yield lambda: unwrapped(receiver.next(), endpoint.signing_secret)
        client.webhooks.delete(endpoint.id)


def upload(client, name, numbers):
    rows = [
        {"messages": [{"role": "user", "content": f"Colour {n}?"}, {"role": "assistant", "content": f"Blue {n}."}]}
        for n in numbers
    ]
    content = "".join(json.dumps(row) + "\n" for row in rows).encode()
    return client.files.create(file=(name, content), purpose="fine-tune").id


def logprobs(client, model):
    # Several prompts, as a half-trained model may end one of them at once.
    answer = client.completions.create(model=model, prompt=PROMPTS, temperature=0, max_tokens=4, logprobs=1)
    return [choice.logprobs.token_logprobs for choice in answer.choices]


def said(client, model):
    ask = [{"role": "user", "content": PROMPTS[0]}]
    answer = client.chat.completions.create(model=model, messages=ask, temperature=0, max_tokens=4)
    return answer.choices[0].message.content


def test_from_rows_to_an_answer(platform, client, tiny_model, told):
    jobs = client.fine_tuning.jobs
    job = jobs.create(
        model="tiny-llama",
        training_file=upload(client, "colours.jsonl", range(ROWS)),
        validation_file=upload(client, "more-colours.jsonl", range(ROWS, ROWS + HELD_OUT)),
        suffix="Colours",
        metadata={"team": "blue"},
        method={
            "type": "supervised",
            "supervised": {
                "hyperparameters": {"n_epochs": EPOCHS, "batch_size": BATCH, "learning_rate_multiplier": 20}
            },
        },
        extra_body=SETTINGS,
    )

    def has_measured():
        return any(event.type == "metrics" for event in jobs.list_events(job.id, limit=5).data)

    platform.wait_until(has_measured, 120, "a step")
    assert jobs.pause(job.id).status == "paused"
    paused_at = jobs.checkpoints.list(job.id).data[0]
    on_the_way = logprobs(client, paused_at.fine_tuned_model_checkpoint)
    assert on_the_way != logprobs(client, "tiny-llama")
    assert said(client, paused_at.fine_tuned_model_checkpoint) is not None
    assert jobs.resume(job.id).status in ("running", "queued")
    platform.wait_until(lambda: jobs.retrieve(job.id).status == "succeeded", 120, "the job to succeed")
    event = told()
    assert (event.type, event.data.id) == ("fine_tuning.job.succeeded", job.id)
    assert [one.id for one in jobs.list(metadata={"team": "blue"})] == [job.id]
    assert_told_of_every_step(client, job.id)
    assert_answers(client, jobs.retrieve(job.id), on_the_way)
    evaluated_on_the_other_file(platform, job.id)


def assert_told_of_every_step(client, job_id):
    events = list(client.fine_tuning.jobs.list_events(job_id, limit=1000))
    steps = [event.data["step"] for event in events if event.data.get("train_loss") is not None]
    assert steps == list(range(STEPS, 0, -1))
    job = client.fine_tuning.jobs.retrieve(job_id)
    assert job.trained_tokens > STEPS * BATCH
    rows = list(csv.DictReader(client.files.content(job.result_files[0]).text.splitlines()))
    assert [int(row["step"]) for row in rows] == list(range(1, STEPS + 1))
    assert [int(row["step"]) for row in rows if row["valid_loss"]] == list(range(200, STEPS + 1, 200))
    newest = client.fine_tuning.jobs.checkpoints.list(job_id).data[0]
    assert newest.step_number == STEPS
    assert newest.metrics.train_loss == pytest.approx(float(rows[-1]["train_loss"]))
    assert newest.metrics.valid_loss == pytest.approx(float(rows[-1]["valid_loss"]))


def assert_answers(client, job, on_the_way):
    """The new model is its last checkpoint, and no longer the one at which it was paused."""
    assert job.fine_tuned_model.startswith("ft:tiny-llama:colours:")
    last = client.fine_tuning.jobs.checkpoints.list(job.id).data[0].fine_tuned_model_checkpoint
    assert logprobs(client, job.fine_tuned_model) == logprobs(client, last) != on_the_way
    assert said(client, job.fine_tuned_model) == said(client, last)


def evaluated_on_the_other_file(platform, job_id):
    """Before and after are compared on all rows of the validation file, and on no row that was trained on."""
    job = platform.job(int(job_id.removeprefix("ftjob-")))
    assert f"{ROWS} rows to train on, {HELD_OUT} held out" in job["logs"]

    def compared():
        ids = f"{job['base_evaluation_id']},{job['output_evaluation_id']}"
        answer = platform.http.get("/evaluations/compare", params={"ids": ids})
        return answer.json() if answer.status_code == 200 else None

    comparison = platform.wait_until(compared, 120, "both evaluations")
    assert comparison["rows"] == HELD_OUT
    assert comparison["metrics"]["perplexity"]["better"] == job["output_evaluation_id"]
