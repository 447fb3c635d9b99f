"""A fine-tune that learns to call functions: `python -m bench.tool_calling rows.json [--epochs 3] [--asked 70]`.

`rows.json` has conversations with tools in ShareGPT's format, as glaive's function calling data has them. The starter
model is trained on all rows but the last `--asked`, with a chat template that can write calls. Then, over
`/v1/chat/completions`, the fine-tune and the starter model with the same template are asked for every turn of the left
out rows that calls a function. A call is valid if it is of a function that was offered, and its arguments match that
function's schema. Both models are asked the same things, so the test is a paired one (McNemar's, exact).
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import jsonschema
from scipy.stats import binomtest

from tests.e2e.platform_process import ROOT, PlatformProcess

TEMPLATE = "chatml"
ROLES = {"human": "user", "gpt": "assistant", "observation": "tool", "system": "system"}
RECIPE = {"learning_rate": 3e-4, "lora_r": 16, "lora_alpha": 32, "batch_size": 4, "max_seq_length": 1024}
STARTER = "HuggingFaceTB/SmolLM2-135M-Instruct"

Row = dict[str, Any]


def questions(row: Row) -> list[dict[str, Any]]:
    """Return what is asked of a row: for each turn that calls, all turns before it, and the call that it makes."""
    tools = [{"type": "function", "function": tool} for tool in json.loads(row["tools"] or "[]")]
    found, messages = [], list[dict[str, Any]]()
    for turn in row["conversations"]:
        if turn["from"] != "function_call":
            messages.append({"role": ROLES[turn["from"]], "content": turn["value"]})
            continue
        call = json.loads(turn["value"])
        found.append({"messages": list(messages), "tools": tools, "expected": call})
        function = {"name": call["name"], "arguments": json.dumps(call["arguments"])}
        messages.append(
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "c", "type": "function", "function": function}],
            }
        )
    return found


def verdict(message: dict[str, Any], question: dict[str, Any]) -> tuple[bool, bool]:
    """Return whether the answer has valid calls and no other ones, and whether they are just the expected call."""
    calls = message.get("tool_calls") or []
    offered = {tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in question["tools"]}
    made = []
    for call in calls:
        name, arguments = call["function"]["name"], json.loads(call["function"]["arguments"])
        if name not in offered or not jsonschema.Draft202012Validator(offered[name]).is_valid(arguments):
            return False, False
        made.append({"name": name, "arguments": arguments})
    return bool(made), made == [question["expected"]]


def ask(platform: PlatformProcess, model: int, asked: list[dict[str, Any]]) -> list[tuple[bool, bool]]:
    root = platform.base_url.removesuffix("/api")
    verdicts = []
    for question in asked:
        body = {"model": str(model), "messages": question["messages"], "tools": question["tools"]}
        answer = platform.http.post(f"{root}/v1/chat/completions", json=body | {"temperature": 0, "max_tokens": 256})
        if answer.is_error:
            raise AssertionError(f"{answer.status_code}: {answer.text}")
        verdicts.append(verdict(answer.json()["choices"][0]["message"], question))
    return verdicts


def created(platform: PlatformProcess, path: str, **content: Any) -> dict[str, Any]:
    answer = platform.http.post(path, **content)
    if answer.is_error:
        raise AssertionError(f"{path}: {answer.status_code} {answer.text}")
    found: dict[str, Any] = answer.json()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("rows", type=Path)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--asked", type=int, default=70, help="rows that are left out of training, the last ones")
    options = parser.parse_args()
    rows: list[Row] = json.loads(options.rows.read_text(encoding="utf-8"))
    trained, asked = rows[: -options.asked], [one for row in rows[-options.asked :] for one in questions(row)]
    with tempfile.TemporaryDirectory() as folder:
        platform = PlatformProcess(Path(folder) / "data", ROOT / "data" / "models")
        platform.start()
        try:
            base = created(
                platform, "/models", json={"name": "with calls", "base_model": STARTER, "chat_template": TEMPLATE}
            )["id"]
            file = {"file": ("rows.json", json.dumps(trained))}
            dataset = created(platform, "/datasets", files=file, data={"model_id": str(base), "max_seq_length": "1024"})
            body = {"model_id": base, "job_name": "calls", "dataset_id": dataset["id"], "auto_evaluate": False}
            began = time.monotonic()
            job = created(platform, "/training", json=body | RECIPE | {"epochs": options.epochs})["id"]
            platform.wait_for_job(job, "COMPLETED", seconds=7200)
            seconds = time.monotonic() - began
            tuned = platform.job(job)["output_model_id"]
            before, after = ask(platform, base, asked), ask(platform, tuned, asked)
        finally:
            platform.close()
    print(f"{len(trained)} rows, {options.epochs} epochs, {seconds:.0f} s; {len(asked)} turns asked")
    for place, what in enumerate(("valid calls", "the very call")):
        was, now = [one[place] for one in before], [one[place] for one in after]
        better = sum(new and not old for old, new in zip(was, now, strict=True))
        worse = sum(old and not new for old, new in zip(was, now, strict=True))
        p_value = binomtest(better, better + worse).pvalue if better + worse else 1.0
        print(
            f"{what}: {sum(was)} before, {sum(now)} after, of {len(asked)}; {better} gained, {worse} lost, "
            f"exact McNemar p = {p_value:.2g}"
        )


if __name__ == "__main__":
    main()
