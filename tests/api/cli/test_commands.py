"""Commands over the real API: what people read, what programs read, and how each command fails."""

import io
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from api.cli.client import read_events
from api.cli.program import run
from api.cli.watching import clock, job_line, state_of
from tests.api.test_evaluations import evaluated, texts_of  # noqa: F401 - a fixture and what it uses
from tests.e2e.platform_process import free_ports
from tests.tasks.metrics.made_samples import draw_samples

REFUSED, USAGE, UNREACHABLE, FAILED = 4, 2, 3, 1


def one_line(error):
    (line,) = error.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


@pytest.fixture
def settled_models(client):
    """No base is LOADING any more: what is asked for twice is the same."""
    deadline = time.monotonic() + 60
    while any(model["status"] == "LOADING" for model in client.get("/api/models").json()["models"]):
        assert time.monotonic() < deadline, "a base is still LOADING"
        time.sleep(0.05)


@pytest.mark.usefixtures("settled_models")
def test_models_as_a_table_and_as_json(command, answer, client, tiny_model):
    assert answer("models") == client.get("/api/models").json()
    assert [model["id"] for model in answer("models", "--name", "Tiny")["models"]] == [tiny_model["id"]]
    code, printed, error = command("models")
    assert (code, error) == (0, "")
    header, *rows = printed.splitlines()
    assert header.split() == ["ID", "NAME", "BASE", "MODEL", "SIZE", "STATUS"]
    assert any(row.split()[:2] == [str(tiny_model["id"]), "Tiny"] and "AVAILABLE" in row for row in rows)


def test_names_that_look_like_markup_are_shown_as_they_are(command, client):
    client.post("/api/models", json={"name": "[red]x[/red] [/nothing]", "base_model": "tiny-llama"}).raise_for_status()
    assert "[red]x[/red] [/nothing]" in command("models")[1]


def test_status_of_a_degraded_platform_names_its_parts_and_fails(command):
    code, printed, error = command("status")
    assert code == FAILED
    assert "degraded" in printed
    assert "prefect" in printed
    assert "degraded" in one_line(error)
    code, printed, _ = command("status", "--json")
    assert code == FAILED
    assert json.loads(printed)["health"]["status"] == "degraded"


def test_a_job_that_has_ended_is_watched_with_its_outcome_as_exit_code(command, answer, job):
    completed, failed = job("COMPLETED", step=3, total_steps=3), job("FAILED")
    code, printed, _ = command("watch", completed)
    assert code == 0
    assert f"Job {completed} is COMPLETED: 3 steps" in printed
    assert answer("watch", completed)["id"] == completed
    code, printed, error = command("watch", failed)
    assert (code, printed) == (FAILED, "")
    assert error.splitlines()[-1] == f"error: Job {failed} is FAILED: it broke"
    listed = answer("jobs")["training_jobs"]
    assert [one["id"] for one in listed][-2:] == [completed, failed]
    assert "COMPLETED" in command("jobs")[1]
    assert [one["id"] for one in answer("jobs", "--limit", 2)["training_jobs"]] == [failed, completed]
    assert [one["id"] for one in answer("jobs", "--status", "failed", "--limit", 1)["training_jobs"]] == [failed]
    assert answer("jobs", "--name", "no such job")["training_jobs"] == []
    assert answer("jobs", "--model", 1)["training_jobs"] == []
    code, _, error = command("jobs", "--status", "done")
    assert code == REFUSED
    assert "status is 'DONE'" in one_line(error)


def test_training_settings_reach_the_api_from_recipe_and_command(command, answer, client, tmp_path, tiny_model):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("max_steps: 30\nlearning_rate: 5.0e-4\nlr_scheduler: cosine\n")
    settings = ("max_steps=7", 'target_modules=["q_proj"]', "metadata={}")
    created = answer("train", tiny_model["id"], *settings, "--recipe", recipe, "--name", "mine")
    job = client.get(f"/api/training/{created['id']}").json()
    wanted = {"max_steps": 7, "learning_rate": 5e-4, "lr_scheduler": "cosine", "target_modules": ["q_proj"]}
    assert job["recipe"] | wanted == job["recipe"]
    assert job["job_name"] == "mine"
    code, printed, _ = command("train", tiny_model["id"])
    assert code == 0
    assert "PENDING" in printed


def test_a_log_is_printed_and_followed_to_the_end_of_the_job(command, answer, job, database):
    from registry.repositories.training_jobs import TrainingJobRepository

    job_id = job("COMPLETED")
    with database.transaction() as session:
        TrainingJobRepository(session).log(job_id, "a line with [brackets]")
    assert command("logs", job_id) == (0, "a line with [brackets]\n", "")
    assert answer("logs", job_id) == {"id": job_id, "logs": "a line with [brackets]"}
    assert command("logs", job_id, "-f")[:2] == (0, "a line with [brackets]\n")
    events = [json.loads(line) for line in command("logs", job_id, "-f", "--json")[1].splitlines()]
    assert [event["data"]["message"] for event in events if event["kind"] == "log"] == ["a line with [brackets]"]


def test_data_sets_are_added_listed_and_shown(command, answer, tiny_model, tmp_path):
    file = tmp_path / "colours.jsonl"
    rows = [{"prompt": f"Colour {number}?", "completion": f"Blue {number}."} for number in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, printed, error = command("datasets", "add", file, "name=colours", "held_out_fraction=0.5")
    assert (code, error) == (0, "")
    assert "20 of 20 rows can be used (jsonl, prompt/completion)" in printed
    (added,) = [one for one in answer("datasets", "list")["datasets"] if one["name"] == "colours"]
    assert "colours" in command("datasets", "list")[1]
    code, printed, _ = command("datasets", "preview", added["id"], "--rows", 2, "--rendered")
    assert code == 0
    assert printed.count("<|im_start|>assistant\n  Blue") == 2


def test_two_evaluations_are_compared(command, answer, evaluated):  # noqa: F811
    random = np.random.default_rng(1)
    first, second = evaluated(draw_samples(random, 20)), evaluated(draw_samples(random, 20))
    compared = answer("compare", first, second)
    assert compared["ids"] == [first, second]
    code, printed, _ = command("compare", first, second)
    assert code == 0
    assert {line.split()[0] for line in printed.splitlines()} >= set(compared["metrics"])


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("watch", "999"), REFUSED, "There is no training job with the id 999"),
        (("pause", "999"), REFUSED, "There is no training job with the id 999"),
        (("logs", "999", "-f"), REFUSED, "There is no training job with the id 999"),
        (("generate", "999", "x"), REFUSED, "There is no model with the id 999"),
        (("chat", "999"), REFUSED, "999"),
        (("train", "1", "lora_rank=8"), REFUSED, "lora_rank"),
        (("train", "1", "epochs=none"), REFUSED, "'none'"),
        (("train", "1", "epochs"), USAGE, "'epochs'"),
        (("train", "1", "epochs=1", "epochs=2"), USAGE, "epochs is given twice"),
        (("train", "one"), USAGE, "'MODEL'"),
        (("train", "1", "--recipe", "/nowhere.yaml"), USAGE, "/nowhere.yaml can't be read"),
        (("datasets", "add", "/nowhere.jsonl"), USAGE, "/nowhere.jsonl can't be read"),
        (("datasets", "preview", "999"), REFUSED, "There is no data set with the id 999"),
        (("compare", "1", "1"), REFUSED, "1"),
        (("modles",), USAGE, "Did you mean 'models'"),
        (("models", "--url", "nowhere"), USAGE, "'nowhere'"),
        (("export", "1", "/"), USAGE, "is there already"),
    ],
)
def test_an_error_is_one_line_with_its_exit_code(command, monkeypatch, arguments, code, sentence):
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello\n"))
    found, printed, error = command(*arguments)
    assert (found, printed) == (code, "")
    assert sentence in one_line(error)


def test_what_is_not_there_and_what_is_no_platform(command, settings):
    (port,) = free_ports(1)
    code, _, error = command("models", "--url", f"http://localhost:{port}")
    assert code == UNREACHABLE
    assert f"No platform answers at http://localhost:{port}" in one_line(error)
    code, _, error = command("models", "--url", f"{os.environ['LLM_PLATFORM_URL']}/elsewhere")
    assert code == REFUSED
    assert "/elsewhere" in one_line(error)


def test_a_model_is_exported_from_the_data_folder(command, answer, settings, monkeypatch, tmp_path, tiny_model):
    monkeypatch.setenv("LLM_PLATFORM_DATA_DIR", str(settings.data_dir))
    monkeypatch.setenv("LLM_PLATFORM_LOCAL_MODELS_DIR", str(settings.models_dir))
    made = answer("export", tiny_model["id"], tmp_path / "out", "--format", "gguf")
    assert made["largest_difference"] <= 1e-3
    code, _, error = command("export", tiny_model["id"], tmp_path / "adapter", "--format", "peft")
    assert code == FAILED
    assert "no adapter" in one_line(error)
    code, _, error = command("export", 999, tmp_path / "none")
    assert code == FAILED
    assert "There is no model with the id 999" in one_line(error)


def test_the_shell_completes_commands_and_hyperparameters():
    def completed(words):
        variables = {
            "_LLM_PLATFORM_COMPLETE": "complete_bash",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        run = subprocess.run(
            [sys.executable, "-c", "from api.cli import main; main()"],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            check=False,
        )
        return run.stdout.split()

    assert completed("llm-platform datasets pre") == ["preview"]
    assert completed("llm-platform train 1 lora_") == ["lora_r=", "lora_alpha=", "lora_dropout="]


def test_a_command_starts_without_the_server_and_without_torch():
    (port,) = free_ports(1)
    code = (
        "import sys; from api.cli.program import run; run(['status', '--url', sys.argv[1]]);"
        "print(sorted({'torch', 'fastapi', 'sqlalchemy', 'pydantic_settings', 'transformers'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, f"http://localhost:{port}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_a_stream_of_events_is_read_as_the_standard_says():
    lines = [": a comment", "", "event: done", "data: a", "data:b", "id: 3", "", "data: half"]
    (event,) = read_events(iter(lines))
    assert (event.kind, event.data) == ("done", "a\nb")


def test_the_line_of_a_job():
    job = {"status": "RUNNING", "step": 3, "total_steps": 30, "current_loss": 2.0, "eval_loss": None}
    job |= {"tokens_per_second": 431.6, "eta_seconds": 67.2, "queue_position": None}
    assert job_line(job) == "step 3/30, loss 2.000, 432 tokens/s, 1:07 left"
    assert job_line(job | {"status": "PENDING", "queue_position": 2}) == "number 2 in the queue"
    assert state_of({"status": "RUNNING", "pausing": True, "cancelling": False}) == "PAUSING"
    assert (clock(0.4), clock(3661)) == ("0:00", "1:01:01")


def test_without_a_command_the_help_is_shown(capsys):
    assert run([]) == 0
    assert "datasets" in capsys.readouterr().out
