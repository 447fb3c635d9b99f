"""lm-eval over `/v1/completions` beside lm-eval in transformers: `python -m bench.lm_eval_api [--rows 200]`.

The task has a row for each of so many functions of the standard library: which of four sentences says what it does. The
starter model is asked by lm-eval's `hf` model in this process, and by its `local-completions` (`pip install
lm-eval[api]`) through a platform that computes in float32, as the `hf` model does here. What float32 can hold is shown
beside: by how much the `hf` model differs from itself at another batch size, and from its log-likelihoods in float64.
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
        began = time.monotonic()
        expected = in_transformers(weights, tasks(), torch.float32, batch_size=16)
        here = time.monotonic() - began
        alone = in_transformers(weights, tasks(), torch.float32, batch_size=1)
        exact = in_transformers(weights, tasks(), torch.float64, batch_size=16)
    for metric in METRICS:
        pair = [found["results"]["which"][metric] for found in (given, expected)]
        print(f"{metric.split(',')[0]}: {pair[0]} over HTTP, {pair[1]} in transformers")
    theirs = answers(expected)
    differing = sum(ours[1] != other[1] for ours, other in zip(answers(given), theirs, strict=True))
    print(f"{len(theirs)} log-likelihoods; {differing} differ in is_greedy; the largest differences:")
    for name, found, other in (
        ("over HTTP from transformers", given, expected),
        ("transformers at batch size 16 from itself at 1", expected, alone),
        ("over HTTP from float64", given, exact),
        ("transformers from float64", expected, exact),
    ):
        print(f"{name}: {largest_difference(found, other):.2g}")
    print(f"{over:.0f} s over HTTP, {here:.0f} s in transformers")


def in_transformers(weights: Path, tasks: dict[str, Any], dtype: torch.dtype, batch_size: int) -> dict[str, Any]:
    """Return what lm-eval measures by a model of transformers."""
    measured = measure(
        AutoModelForCausalLM.from_pretrained(weights, dtype=dtype).eval(),
        AutoTokenizer.from_pretrained(weights),
        tasks,
        batch_size=batch_size,
        limit=None,
        num_fewshot=None,
        seed=7,
        apply_chat_template=False,
    )
    return {"results": measured.results, "samples": measured.samples}


def answers(found: dict[str, Any]) -> list[tuple[float, str]]:
    """Return each log-likelihood, and whether it is the greedy answer's."""
    samples = found["samples"]["which"]
    told = chain.from_iterable(chain.from_iterable(sample["resps"] for sample in samples))
    return [(float(one[0]), str(one[1])) for one in told]


def largest_difference(found: dict[str, Any], other: dict[str, Any]) -> float:
    """Return by how much log-likelihoods differ at most."""
    return max(abs(one[0] - two[0]) for one, two in zip(answers(found), answers(other), strict=True))


if __name__ == "__main__":
    main()
