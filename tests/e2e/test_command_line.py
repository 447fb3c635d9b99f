"""The command line as a person uses it: in a terminal, against the running platform."""

import json
import subprocess

import pytest

from tests.e2e.terminal import COMMAND, Terminal

ENDLESS = ("max_steps=5000", "max_seq_length=64", "batch_size=2", "lora_r=2", "auto_evaluate=false")
CTRL_C, CTRL_D = "\x03", "\x04"


@pytest.fixture
def terminal(platform):
    """Start a command in a terminal."""
    return lambda *arguments: Terminal(*(str(argument) for argument in arguments), url=platform.base_url)


@pytest.fixture
def answer(platform):
    """Run a command with --json, without a terminal; returns its answer."""

    def run(*arguments):
        command = [str(COMMAND), *map(str, arguments), "--json", "--url", platform.base_url]
        return json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)

    return run


def test_a_job_is_watched_left_and_ended_from_a_terminal(platform, terminal, answer, tiny_model, screenshots):
    shown = terminal("train", tiny_model, *ENDLESS, "--name", "Watched", "--watch")
    job_id = int(shown.expect(r"job (\d+) ")[1])
    percent = r"\d+" if screenshots is None else r"\d\d"  # a picture should show something of the bar
    shown.expect(rf"job {job_id} RUNNING .* {percent}% step \d+/5000, loss \d+\.\d+, .*tokens/s, .*left")
    assert "\x1b[" in shown.raw  # drawn in place, in colours
    shown.type(CTRL_C)
    assert shown.end() == 130
    assert f"Detached: job {job_id} goes on" in shown.text
    shown.picture(screenshots, "watch")
    step = platform.job(job_id)["step"]
    platform.wait_until(lambda: platform.job(job_id)["step"] > step, 30, "the job to go on")

    pausing = terminal("pause", job_id)
    assert pausing.end() == 0
    assert f"Job {job_id} is PAUSED" in pausing.text
    again = terminal("pause", job_id)
    assert again.end() == 4
    assert "error: " in again.text
    assert answer("resume", job_id)["id"] == job_id

    follower = terminal("logs", "-f", job_id)
    watcher = terminal("watch", job_id)
    watcher.expect(rf"job {job_id} RUNNING")
    assert terminal("cancel", job_id).end() == 0
    assert watcher.end() == 1
    assert f"error: Job {job_id} is CANCELLED" in watcher.text
    assert follower.end() == 0
    assert platform.job(job_id)["logs"].splitlines()[0] in follower.text


def test_a_job_watched_to_its_end_is_evaluated_and_compared(terminal, answer, tiny_model):
    job = answer("train", tiny_model, "max_steps=5", "max_seq_length=64", "auto_evaluate=false", "--watch")
    assert job["status"] == "COMPLETED"
    quick = ("max_samples=4", "--metric", "perplexity")
    shown = terminal("evaluate", job["output_model_id"], *quick)
    assert shown.end() == 0
    first = int(shown.expect(r"Evaluation (\d+) of model \d+ is COMPLETED")[1])
    shown.expect(r"perplexity +\d")
    # The base by itself would be measured at another length than the fine-tune was trained at.
    second = answer("evaluate", tiny_model, "max_seq_length=64", *quick)["id"]
    compared = terminal("compare", first, second)
    assert compared.end() == 0
    compared.expect(r"perplexity +\d")


def test_text_streams_and_a_chat_goes_on_after_an_answer_was_stopped(terminal, answer, tiny_model, screenshots):
    shown = terminal("generate", tiny_model, "The quick", "max_new_tokens=8", "temperature=0")
    assert shown.end() == 0
    whole = answer("generate", tiny_model, "The quick", "max_new_tokens=8", "temperature=0")
    assert whole["text"].startswith("The quick")
    assert "The quick" in shown.text

    talk = terminal("chat", 1, "max_tokens=2000", "temprature=0")
    talk.expect("> ")
    talk.type("Hi\n")
    assert talk.end() == 4
    assert "temprature" in talk.text

    talk = terminal("chat", 1, "temperature=0")
    talk.expect("> ")
    talk.type("Write a very long story about a lighthouse.\n")
    talk.expect(r"lighthouse\.\s+\S+ \S+")
    talk.type(CTRL_C)
    talk.expect("Stopped")
    talk.type("What is the capital of France?\n")
    talk.expect(r"France\?\s+[^>]*\w[^>]*\n> ")
    talk.picture(screenshots, "chat")
    talk.type(CTRL_D)
    assert talk.end() == 0


def test_status_shows_every_service(platform, terminal, screenshots):
    shown = terminal("status")
    assert shown.end() == 0
    shown.picture(screenshots, "status")
    assert "healthy" in shown.text
    for service in platform.http.get("/health").json()["parts"]:
        assert service in shown.text
