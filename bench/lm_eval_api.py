"""lm-eval over `/v1/completions` beside lm-eval in transformers: `python -m bench.lm_eval_api [--rows 200]`.

The task has a row for each of so many functions of the standard library: which of four sentences says what it does. The
starter model is asked by lm-eval's `hf` model in this process, and by its `local-completions` (`pip install
lm-eval[api]`) through a platform that computes in float32, as the `hf` model does here.
"""

import argparse
import random
import tempfile
import time
from itertools import chain
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.models.openai_completions import LocalCompletionsAPI
from transformers import AutoModelForCausalLM, AutoTokenizer

from tasks.data.stdlib_docstrings import stdlib_docstring_examples
from tasks.harness.measuring import measure
from tasks.harness.task_files import load_tasks
from tests.e2e.platform_process import ROOT, PlatformProcess
from tests.tasks.harness.task_folder import CHOICE_TASK, write_task

STARTER = "HuggingFaceTB/SmolLM2-135M-Instruct"
CHOICES = 4
METRICS = ("acc,none", "acc_norm,none")


def rows(count: int) -> list[dict[str, Any]]:
    """Return questions with four answers each, one of them right."""
    pairs = [(one.messages[0].content, one.messages[-1].content.split("\n")[0]) for one in stdlib_docstring_examples()]
    dice = random.Random(7)
    made = []
    for question, answer in dice.sample(pairs, count):
        others = [other for _, other in dice.sample(pairs, CHOICES) if other != answer]
        choices = [answer, *others[: CHOICES - 1]]
        dice.shuffle(choices)
        made.append({"question": question, "choices": choices, "gold": choices.index(answer)})
    return made


def over_http(platform: PlatformProcess, folder: Path, tasks: dict[str, Any]) -> dict[str, Any]:
    """Return what lm-eval's client of completions measures."""
    client = LocalCompletionsAPI(
        base_url=f"http://localhost:{platform.ports['api']}/v1/completions",
        model=STARTER,
        tokenizer=str(folder),
        tokenizer_backend="huggingface",
        batch_size=16,
        num_concurrent=1,
    )
    found: dict[str, Any] = lm_eval.evaluate(lm=client, task_dict=tasks, bootstrap_iters=0, log_samples=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200)
    options = parser.parse_args()
    weights = ROOT / "data" / "models" / STARTER
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_task(folder / "tasks", CHOICE_TASK, rows(options.rows))

        def tasks() -> dict[str, Any]:
            return load_tasks(folder / "tasks", ["which"], cache_dir=folder / "cache")

        platform = PlatformProcess(folder / "data", ROOT / "data" / "models")
        platform.environment["LLM_PLATFORM_COMPUTE_DTYPE"] = "float32"
        platform.start()
        try:
            began = time.monotonic()
            given = over_http(platform, weights, tasks())
            over = time.monotonic() - began
        finally:
            platform.close()
        model = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()
        began = time.monotonic()
        expected = measure(
            model,
            AutoTokenizer.from_pretrained(weights),
            tasks(),
            batch_size=16,
            limit=None,
            num_fewshot=None,
            seed=7,
            apply_chat_template=False,
        )
        here = time.monotonic() - began
    for metric in METRICS:
        pair = [found["results"]["which"][metric] for found in (given, expected.results)]
        print(f"{metric.split(',')[0]}: {pair[0]} over HTTP, {pair[1]} in transformers")
    answers = [
        list(chain.from_iterable(chain.from_iterable(sample["resps"] for sample in samples["which"])))
        for samples in (given["samples"], expected.samples)
    ]
    differences = [abs(float(ours[0]) - float(theirs[0])) for ours, theirs in zip(*answers, strict=True)]
    greedy = sum(str(ours[1]) != str(theirs[1]) for ours, theirs in zip(*answers, strict=True))
    print(
        f"{len(differences)} log-likelihoods: largest difference {max(differences):.2g}; {greedy} differ in is_greedy"
    )
    print(f"{over:.0f} s over HTTP, {here:.0f} s in transformers")


if __name__ == "__main__":
    main()
