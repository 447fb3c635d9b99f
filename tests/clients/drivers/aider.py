"""aider: its command line edits a file of an empty folder, whole and streamed."""

import os
import re
import subprocess
import sys
import tempfile

from reporting import BASE_URL, KEY, MODEL, UNKNOWN, capability

ALWAYS = [
    *("--no-git", "--yes-always", "--no-analytics", "--no-check-update", "--no-show-model-warnings", "--no-pretty"),
    *("--no-show-release-notes", "--no-detect-urls", "--map-tokens", "0"),
]
TASK = "Say hello."
FOUND = re.compile(r"Tokens: .* sent, .* received")


def aider(*words: str, model: str = MODEL) -> str:
    """Return what aider printed."""
    keys = {"OPENAI_API_BASE": BASE_URL, "OPENAI_API_KEY": KEY, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-P", "-m", "aider", "--model", f"openai/{model}", *ALWAYS, *words, "--message", TASK]
    # It writes its history to where it runs.
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            command, cwd=folder, env=os.environ | keys, capture_output=True, text=True, timeout=600, check=False
        )
    # It breaks lines where its terminal would end.
    return " ".join((done.stdout + done.stderr).split())


def answered(output: str) -> str:
    told = FOUND.search(output)
    assert told, output[-600:]
    return told.group()


@capability("chat")
def _():
    return answered(aider("--no-stream", "--edit-format", "ask"))


@capability("stream")
def _():
    return answered(aider("--stream", "--edit-format", "ask"))


@capability("errors")
def _():
    output = aider("--no-stream", "--edit-format", "ask", model=UNKNOWN)
    assert f"There is no model named '{UNKNOWN}'" in output, output[-600:]
    return "NotFoundError"
