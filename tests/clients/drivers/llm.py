"""Simon Willison's `llm`: its command line, and its library for tools and schemas."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reporting import BASE_URL, KEY, MODEL, PLACE, QUESTION, UNKNOWN, WEATHER, capability, in_city

MODELS = [
    {"model_id": name, "model_name": name, "api_base": BASE_URL, "supports_schema": True, "supports_tools": True}
    for name in (MODEL, UNKNOWN)
]
folder = Path.home() / "llm"
folder.mkdir(exist_ok=True)
# JSON is YAML, too.
(folder / "extra-openai-models.yaml").write_text(json.dumps(MODELS))
os.environ |= {"LLM_USER_PATH": str(folder), "OPENAI_API_KEY": KEY}

import llm  # noqa: E402  # it reads its folder as it is imported

model = llm.get_model(MODEL)
SHORT = {"max_tokens": 40}


def command(*words: str, fails: bool = False) -> str:
    """Run `llm` and return what it printed, or what it said as it failed."""
    done = subprocess.run([sys.executable, "-m", "llm", *words], capture_output=True, text=True, check=False)
    assert bool(done.returncode) is fails, done.stderr
    return done.stderr if fails else done.stdout


def weather(city: str) -> str:
    """Tell the weather of a city."""
    return f"{city}: {WEATHER}"


@capability("chat")
def _():
    return command("-m", MODEL, "-o", "max_tokens", "40", "--no-stream", QUESTION)


@capability("second turn")
def _():
    talk = model.conversation()
    talk.prompt(QUESTION, stream=False, **SHORT).text()
    return talk.prompt("And in Rome?", stream=False, **SHORT).text()


@capability("stream")
def _():
    return "".join(model.prompt(QUESTION, stream=True, **SHORT))


@capability("usage in stream")
def _():
    answer = model.prompt(QUESTION, stream=True, **SHORT)
    answer.text()
    return answer.usage().output and answer.usage()


@capability("JSON schema")
def _():
    return in_city(model.prompt(QUESTION, schema=PLACE, stream=False, **SHORT).text())


@capability("options")
def _():
    # It has no `tool_choice`: the model is offered the tool, and chooses.
    return model.chain(QUESTION, tools=[weather], options=SHORT).text()


@capability("responses")
def _():
    endpoint = ("openai", "endpoint", BASE_URL, "--key", KEY, "-m", MODEL)
    return command(*endpoint, "-o", "max_tokens", "40", "--responses", QUESTION)


@capability("errors")
def _():
    said = command("-m", UNKNOWN, QUESTION, fails=True)
    assert f"There is no model named '{UNKNOWN}'" in said, said
    return said
