"""lm-eval's `local-completions` and `local-chat-completions` on a task of four rows that is written here."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reporting import BASE_URL, MODEL, UNKNOWN, capability

FOLDER = Path.home() / "task"
FOLDER.mkdir(exist_ok=True)
ROWS = [
    {"question": "The capital of Norway is", "choices": ["Oslo", "Rome"], "answer": 0},
    {"question": "The capital of Italy is", "choices": ["Oslo", "Rome"], "answer": 1},
    {"question": "Two and two are", "choices": ["four", "nine"], "answer": 0},
    {"question": "A cat says", "choices": ["woof", "meow"], "answer": 1},
]
COMMON = {
    "dataset_path": "json",
    "test_split": "test",
    "dataset_kwargs": {"data_files": {"test": str(FOLDER / "rows.json")}},
}
CHOICE = COMMON | {
    "task": "local_choice",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc"}],
}
WRITTEN = COMMON | {
    "task": "local_written",
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{choices[answer]}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match"}],
}
(FOLDER / "rows.json").write_text("\n".join(map(json.dumps, ROWS)))
for task in (CHOICE, WRITTEN):
    # JSON is YAML, too.
    (FOLDER / f"{task['task']}.yaml").write_text(json.dumps(task))


def evaluate(kind: str, path: str, task: str, *words: str, name: str = MODEL, fails: bool = False) -> str:
    """Run `lm_eval` and return what it printed."""
    tokenizer = f"tokenizer_backend=huggingface,tokenizer={os.environ['MODEL_FOLDER']}"
    arguments = f"model={name},base_url={BASE_URL}/{path},num_concurrent=2,max_retries=1,{tokenizer}"
    command = [sys.executable, "-m", "lm_eval", "run", "--model", kind, "--model_args", arguments]
    command += ["--tasks", task, "--include_path", str(FOLDER), *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    output = done.stdout + done.stderr
    assert bool(done.returncode) is fails, output[-300:]
    return output


def line(output: str, metric: str) -> str:
    """Return the row of the metric in the table that it prints."""
    return next(one for one in output.splitlines() if metric in one and "|" in one)


@capability("chat")
def _():
    words = ("--apply_chat_template",)
    return line(evaluate("local-chat-completions", "chat/completions", "local_written", *words), "exact_match")


@capability("options")
def _():
    # Log-likelihoods of the choices: `echo` with `logprobs` over token ids.
    written = line(evaluate("local-completions", "completions", "local_written"), "exact_match")
    return written and line(evaluate("local-completions", "completions", "local_choice"), "acc")


@capability("errors")
def _():
    output = evaluate("local-completions", "completions", "local_written", name=UNKNOWN, fails=True)
    assert f"There is no model named '{UNKNOWN}'" in output, output[-1000:]
    return "its exception has the sentence"
