"""OpenAI's SDK drives our training jobs as its fine-tuning jobs; the API is in process, Prefect is away."""

import openai
import pytest
import torch
from openai.types.fine_tuning import FineTuningJob

from api.platform import Platform
from api.routes.openai.fine_tuning.checkpoints import answering
from configs.recipe import TrainingRecipe
from registry.repositories.datasets import DatasetRepository
from registry.repositories.flow_backed import Worker
from registry.repositories.models import ModelRepository
from registry.repositories.training_jobs import TrainingJobRepository
from registry.tables import Dataset, Model
from tasks.job.folder import JobFolder
from tasks.models.loading import load_base_model
from tasks.training.adapter import attach_lora, save_adapter
from tests.tasks.training.job import Recorder, run

MANY = 1000


@pytest.fixture(scope="module")
def jobs(sdk, tiny_model):
    return sdk.fine_tuning.jobs


@pytest.fixture(scope="module")
def file_id(database):
    return add_file(database, "colours.jsonl")


@pytest.fixture(scope="module")
def other_file_id(database):
    return add_file(database, "shapes.jsonl")


def add_file(database, name: str, status: str = "READY") -> str:
    """Store a data set as if its rows had been checked; nothing here reads them."""
    with database.transaction() as session:
        dataset = Dataset(name=name, uid=name, source="upload", status=status, settings={}, content_hash=name)
        return f"file-{DatasetRepository(session).add(dataset).id}"


def number(name: str) -> int:
    return int(name.rpartition("-")[2])


def test_a_job_with_everything(jobs, client, file_id, other_file_id):
    hyperparameters = {"n_epochs": 2, "batch_size": 4, "learning_rate_multiplier": 1.8}
    made = jobs.create(
        model="tiny-llama",
        training_file=file_id,
        validation_file=other_file_id,
        suffix="My Colours",
        seed=7,
        metadata={"team": "red", "run": ""},
        method={"type": "supervised", "supervised": {"hyperparameters": hyperparameters}},
        extra_body={"lora_r": 4, "max_steps": 5, "eval_every": 2, "auto_evaluate": False},
    )
    assert (made.model, made.status, made.seed) == ("tiny-llama", "queued", 7)
    assert (made.training_file, made.validation_file) == (file_id, other_file_id)
    assert made.metadata == {"team": "red", "run": ""}
    assert made.hyperparameters.model_dump() == hyperparameters
    assert made.method.supervised.hyperparameters.model_dump() == hyperparameters
    assert (made.fine_tuned_model, made.finished_at, made.trained_tokens, made.result_files) == (None, None, None, [])
    assert jobs.retrieve(made.id) == made
    documented = client.get(f"/api/training/{number(made.id)}").json()
    assert (documented["job_name"], documented["metadata"]) == ("My Colours", made.metadata)
    recipe = documented["recipe"]
    assert (recipe["dataset_id"], recipe["held_out_dataset_id"]) == (number(file_id), number(other_file_id))
    assert (recipe["epochs"], recipe["learning_rate"], recipe["lora_r"]) == (2, pytest.approx(1.8e-4), 4)


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"hyperparameters": {"n_epochs": "auto", "batch_size": "auto", "learning_rate_multiplier": "auto"}},
        {"method": {"type": "supervised"}},
    ],
)
def test_auto_is_our_default(jobs, client, file_id, said):
    made = jobs.create(model="tiny-llama", training_file=file_id, **said)
    recipe = client.get(f"/api/training/{number(made.id)}").json()["recipe"]
    assert recipe == TrainingRecipe(dataset_id=number(file_id)).model_dump()
    assert made.hyperparameters.learning_rate_multiplier == 1.0
    assert (made.metadata, made.validation_file) == (None, None)


def test_the_older_hyperparameters_and_a_repeated_request(jobs, file_id):
    first, again = (
        jobs.create(
            model="tiny-llama",
            training_file=file_id,
            hyperparameters={"n_epochs": 1},
            extra_headers={"Idempotency-Key": "jobs"},
        )
        for _ in range(2)
    )
    assert first == again
    assert first.hyperparameters.n_epochs == 1


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "no model named 'gpt-9'"),
        ({"training_file": "file-77"}, openai.NotFoundError, "77"),
        ({"training_file": "shapes.jsonl"}, openai.NotFoundError, "file-1"),
        ({"validation_file": "file-77"}, openai.NotFoundError, "77"),
        ({"hyperparameters": {"n_epochs": 0}}, openai.BadRequestError, "n_epochs is 0"),
        ({"hyperparameters": {"batch_size": "big"}}, openai.BadRequestError, "batch_size is 'big'"),
        ({"method": {"type": "dpo", "dpo": {}}}, openai.BadRequestError, "type is 'dpo', but input .* 'supervised'"),
        ({"method": {"type": "supervised"}, "hyperparameters": {}}, openai.BadRequestError, "exclude each other"),
        ({"integrations": [{"type": "wandb"}]}, openai.BadRequestError, "integrations"),
        ({"suffix": "x" * 65}, openai.BadRequestError, "suffix"),
        ({"seed": -1}, openai.BadRequestError, "seed is -1"),
        ({"metadata": {'a"b': "c"}}, openai.BadRequestError, "metadata"),
        ({"extra_body": {"lora_rank": 4}}, openai.BadRequestError, "lora_rank is not a known field"),
        ({"extra_body": {"lora_r": 0}}, openai.BadRequestError, "lora_r is 0"),
        ({"extra_body": {"epochs": 3}}, openai.BadRequestError, "epochs is 3, but it is n_epochs here"),
        ({"extra_body": {"register_best": True}}, openai.BadRequestError, "register_best needs eval_every"),
    ],
)
def test_what_is_wrong_with_a_job(jobs, file_id, change, error, said):
    with pytest.raises(error, match=said) as raised:
        jobs.create(**({"model": "tiny-llama", "training_file": file_id} | change))
    assert isinstance(raised.value.body, dict)
    assert raised.value.body.keys() >= {"message", "type", "param", "code"}


def test_rows_can_not_be_trained_on_and_held_out_at_once(jobs, file_id):
    with pytest.raises(openai.ConflictError, match="is the one to train on"):
        jobs.create(model="tiny-llama", training_file=file_id, validation_file=file_id)


def test_rows_that_are_still_being_checked(jobs, file_id, database):
    unchecked = add_file(database, "unchecked.jsonl", "VALIDATING")
    for files in ({"training_file": unchecked}, {"training_file": file_id, "validation_file": unchecked}):
        with pytest.raises(openai.ConflictError, match="still being checked"):
            jobs.create(model="tiny-llama", **files)


@pytest.mark.parametrize("job_id", ["ftjob-7777", "ftjob-x", "7"])
def test_unknown_jobs(jobs, job_id):
    asks = (jobs.retrieve, jobs.cancel, jobs.pause, jobs.resume, jobs.list_events, jobs.checkpoints.list)
    for ask in asks:
        with pytest.raises(openai.NotFoundError, match=job_id.removeprefix("ftjob-")):
            ask(job_id)


@pytest.mark.parametrize(
    ("status", "shown"),
    [("COMPLETED", "succeeded"), ("FAILED", "failed"), ("CANCELLED", "cancelled"), ("PAUSED", "paused")],
)
def test_how_a_job_stands(jobs, job, status, shown):
    found = jobs.retrieve(f"ftjob-{job(status=status, trained_tokens=5_000_000_000)}")
    ended = status != "PAUSED"
    assert found.status == shown
    assert found.trained_tokens == (5_000_000_000 if ended else None)
    assert (found.finished_at is not None) == ended
    assert (found.error.message if found.error else None) == ("it broke" if status == "FAILED" else None)


def test_a_running_job_reads_its_files_first_and_then_says_when_it_is_done(jobs, job):
    assert jobs.retrieve(f"ftjob-{job(status='RUNNING')}").status == "validating_files"
    running = jobs.retrieve(f"ftjob-{job(status='RUNNING', total_steps=100, step=40, seconds_per_step=60.0)}")
    assert running.status == "running"
    assert 3500 < running.estimated_finish - running.created_at < 3700


def test_changes_that_the_state_forbids(jobs, job):
    job_id = f"ftjob-{job(status='COMPLETED')}"
    for ask in (jobs.cancel, jobs.pause, jobs.resume):
        with pytest.raises(openai.ConflictError, match="COMPLETED"):
            ask(job_id)


def test_lists_find_jobs_by_their_metadata(jobs, job):
    wanted = [f"ftjob-{job(labels={'who': 'anna', 'n': str(n)})}" for n in range(3)]
    job(labels={"who": "ben", "n": "0"})
    assert [one.id for one in jobs.list(metadata={"who": "anna"}, limit=2)] == wanted[::-1]
    assert [one.id for one in jobs.list(metadata={"who": "anna", "n": "1"})] == [wanted[1]]
    assert list(jobs.list(metadata={"who": ""})) == []
    without = jobs.list(extra_query={"metadata": "null"})
    assert {one.metadata for one in without} == {None}
    for query in ({"metadata": "anna"}, {'metadata[a"b]': "c"}, {"after": "file-1"}, {"limit": 0}):
        with pytest.raises(openai.BadRequestError, match=next(iter(query)).partition("[")[0]):
            jobs.list(extra_query=query)


def test_pages_go_on_to_the_end_of_a_thousand_jobs(jobs, database, job):
    ids = job(copies=MANY)
    with database.transaction() as session:
        TrainingJobRepository(session).add_events(ids[-1], [("step", {"step": n, "loss": 1.0}) for n in range(1, 46)])
    found = [one.id for one in jobs.list(limit=100)]
    assert found[:MANY] == [f"ftjob-{one}" for one in reversed(ids)]
    assert len(found) == len(set(found))
    first = jobs.list()
    assert len(first.data) == 20
    assert [one.id for one in first.get_next_page().data] == found[20:40]
    steps = [one.data["step"] for one in jobs.list_events(found[0]) if one.type == "metrics"]
    assert steps == list(range(45, 0, -1))


def test_events_are_sentences_and_numbers(jobs, database, job):
    job_id = job(status="RUNNING")
    with database.transaction() as session:
        repository = TrainingJobRepository(session)
        repository.begin_attempt(repository.require(job_id), Worker("host", 1))
        repository.log(job_id, "Training 3 steps")
        numbers: dict[str, float] = {
            "step": 1,
            "epoch": 1,
            "loss": 2.5,
            "learning_rate": 1e-4,
            "tokens_per_second": 9.0,
        }
        repository.add_events(job_id, [("step", numbers), ("evaluation", {"step": 1, "eval_loss": 2.25})])
        repository.add_events(job_id, [("checkpoint", {"step": 1})])
        repository.end_attempt(repository.require(job_id), "failed")
    events = list(jobs.list_events(f"ftjob-{job_id}", limit=2))
    assert [(event.type, event.level, event.message) for event in events] == [
        ("message", "error", "Attempt 1 ended: failed"),
        ("message", "info", "Checkpoint of step 1 saved"),
        ("metrics", "info", "Step 1: held-out loss 2.2500"),
        ("metrics", "info", "Step 1: training loss 2.5000"),
        ("message", "info", "Training 3 steps"),
        ("message", "info", "Attempt 1 began"),
        ("message", "info", "The job is running"),
    ]
    assert (events[3].data["train_loss"], events[2].data["valid_loss"]) == (2.5, 2.25)


@pytest.fixture
def trained(settings, tiny_llama_dir, job):
    """A job that has left its checkpoints, its id, and its adapter as it would be saved."""
    job_id = job(status="PAUSED", lora_r=2)
    recipe = TrainingRecipe(lora_r=2, max_steps=3, batch_size=4, eval_every=2)
    files = JobFolder(settings.jobs_dir, job_id)
    model = attach_lora(load_base_model(tiny_llama_dir, torch.float32, torch.device("cpu")), recipe)
    save_adapter(model, files.untrained_adapter, "tiny-llama")
    run(model, recipe, files.checkpoints, Recorder(), interval=0.0)
    return job_id, files, save_adapter(model, files.path / "saved", "tiny-llama")


def test_checkpoints_are_models_while_they_are_kept(sdk, client, settings, trained):
    job_id, files, saved = trained
    found = list(sdk.fine_tuning.jobs.checkpoints.list(f"ftjob-{job_id}", limit=1))
    assert [one.step_number for one in found] == [3, 2]
    newest = found[0]
    assert newest.fine_tuned_model_checkpoint == f"ft:tiny-llama:a-job:ftjob-{job_id}:ckpt-step-3"
    assert newest.metrics.train_loss > 0
    assert newest.metrics.valid_loss > 0
    assert sdk.models.retrieve(newest.fine_tuned_model_checkpoint).id == newest.fine_tuned_model_checkpoint
    platform: Platform = client.app.state.platform
    model, adapter = answering(platform, newest.fine_tuned_model_checkpoint)
    assert (model.base_model, adapter.parent) == ("tiny-llama", settings.adapters_dir)
    assert {file.name: file.read_bytes() for file in adapter.iterdir()} == {
        file.name: file.read_bytes() for file in saved.iterdir()
    }
    (files.checkpoints / "step-00000003").rename(files.checkpoints / "step-00000003.replaced")
    ask = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1}
    with pytest.raises(openai.NotFoundError, match=r"expired: the newest two and the one .* stay; there are those of"):
        sdk.chat.completions.create(model=newest.fine_tuned_model_checkpoint, **ask)
    answering(platform, found[1].fine_tuned_model_checkpoint)
    assert not adapter.exists(), "what an expired checkpoint was served from goes when another one is asked for"
    with pytest.raises(openai.NotFoundError, match="no model named"):
        sdk.models.retrieve(f"ft:tiny-llama:another-name:ftjob-{job_id}:ckpt-step-2")


def test_what_checkpoints_were_served_from_goes_with_the_job(sdk, client, settings, trained, database):
    job_id, files, _ = trained
    name = sdk.fine_tuning.jobs.checkpoints.list(f"ftjob-{job_id}").data[0].fine_tuned_model_checkpoint
    _, adapter = answering(client.app.state.platform, name)
    with database.transaction() as session:
        TrainingJobRepository(session).require(job_id).status = "CANCELLED"
    assert client.delete(f"/api/training/{job_id}").status_code == 200
    assert not adapter.exists()
    assert not files.path.exists()


def test_fine_tuned_models_are_deleted_and_bases_are_not(sdk, database, tiny_model):
    with database.transaction() as session:
        tuned = Model(
            name="Mine", base_model="tiny-llama", status="AVAILABLE", adapter="x", parent_model_id=tiny_model["id"]
        )
        name = f"ft:tiny-llama:mine:{ModelRepository(session).add(tuned).id}"
    assert sdk.models.delete(name).id == name
    with pytest.raises(openai.NotFoundError):
        sdk.models.retrieve(name)
    with pytest.raises(openai.BadRequestError, match="a base model"):
        sdk.models.delete("tiny-llama")


def test_a_finished_job_names_its_model(jobs, database, job, tiny_model):
    job_id = job(status="RUNNING")
    with database.transaction() as session:
        made = Model(name="a job", base_model="tiny-llama", status="AVAILABLE", adapter="y", training_job_id=job_id)
        TrainingJobRepository(session).require(job_id).output_model_id = ModelRepository(session).add(made).id
    assert jobs.retrieve(f"ftjob-{job_id}").fine_tuned_model is None
    with database.transaction() as session:
        TrainingJobRepository(session).require(job_id).status = "COMPLETED"
    finished: FineTuningJob = jobs.retrieve(f"ftjob-{job_id}")
    assert finished.fine_tuned_model == f"ft:tiny-llama:a-job:{made.id}"
