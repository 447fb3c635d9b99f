"""lm-eval's numbers for a model in memory, and its record of every sample."""

import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.models.huggingface import HFLM
from lm_eval.utils import handle_non_serializable
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed

from tasks.harness.errors import BenchmarkError
from tasks.harness.offline import offline

BOOTSTRAP_SAMPLES = 1000
"""Resamples behind the standard error of a metric that has no formula for it, such as BLEU (100) or F1."""
PLAIN_FILTER = "none"
NOT_IN_A_NAME = re.compile(r"[^\w.: -]")


@dataclass(frozen=True)
class Scores:
    """What lm-eval returned: `results` has every number and setting, `samples` each task's samples."""

    results: dict[str, Any]
    samples: dict[str, list[dict[str, Any]]]

    def metrics(self) -> dict[str, float]:
        """Return `task/metric` and `task/metric_stderr`; a filter other than `none` stands between them.

        What is no finite number, such as the standard error of a single row, is left out.
        """
        return {
            _metric_name(task, key): float(value)
            for task, values in self.results["results"].items()
            for key, value in values.items()
            if "," in key and isinstance(value, int | float) and math.isfinite(value)
        }

    def write(self, folder: Path) -> None:
        """Write `results.json` and `samples/TASK.json` into `folder`."""
        (folder / "samples").mkdir(parents=True)
        (folder / "results.json").write_text(_json(self.results), encoding="utf-8")
        for task, samples in self.samples.items():
            file = folder / "samples" / f"{_name(task).replace(':', '_')}.json"
            file.write_text(_json(samples), encoding="utf-8")


class _LoadedModel(HFLM):  # type: ignore[misc]
    """lm-eval's transformers model around one that is loaded already; a log file needs no progress bars."""

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
        return super().generate_until(requests, disable_tqdm=disable_tqdm)


def measure(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: dict[str, Any],
    *,
    batch_size: int,
    limit: int | None,
    num_fewshot: int | None,
    seed: int,
    apply_chat_template: bool | None,
) -> Scores:
    """Return the scores of the model, with its adapter if it has one, on what `load_tasks` returned.

    With `apply_chat_template` (None: if the tokenizer has a template) each prompt is the user's turn in it, and solved
    examples are turns before, as `lm_eval --apply_chat_template --fewshot_as_multiturn` has them: a chat model knows no
    other text. Without it prompts are the task's plain text.

    Raises `BenchmarkError` for a task that runs code which the model wrote, and for a template that there is not.
    """
    has_template = getattr(tokenizer, "chat_template", None) is not None
    if apply_chat_template and not has_template:
        raise BenchmarkError(
            "apply_chat_template is true, but the model's tokenizer has no chat template: leave it out, or say false."
        )
    as_chat = has_template if apply_chat_template is None else apply_chat_template
    for name, task in tasks["tasks"].items():
        if getattr(task, "UNSAFE_CODE", False):
            raise BenchmarkError(
                f"The task {name} runs code that the model writes (unsafe_code), which is not done here."
            )
        _settle_fewshot(task, num_fewshot, seed)
    set_seed(seed)
    with offline(), _in_one_process():
        results = lm_eval.evaluate(
            lm=_LoadedModel(pretrained=model, tokenizer=tokenizer, batch_size=batch_size),
            task_dict=tasks,
            limit=limit,
            bootstrap_iters=BOOTSTRAP_SAMPLES,
            log_samples=True,
            apply_chat_template=as_chat,
            fewshot_as_multiturn=as_chat,
        )
    samples = results.pop("samples")
    results["config"] = {**results.get("config", {}), "apply_chat_template": as_chat}
    return Scores(results, samples)


def _settle_fewshot(task: Any, num_fewshot: int | None, seed: int) -> None:
    """Do what lm-eval's command does: a task whose file says 0 stays without solved examples."""
    of_file = task.get_config("num_fewshot")
    if of_file != 0 and num_fewshot is not None:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif of_file is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


@contextmanager
def _in_one_process() -> Iterator[None]:
    """Keep lm-eval from forking this process, which has threads and maybe a GPU, to resample in its children."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["DISABLE_MULTIPROC"]
        else:
            os.environ["DISABLE_MULTIPROC"] = before


def _metric_name(task: str, key: str) -> str:
    metric, _, kind = key.partition(",")
    parts = (task, metric) if kind == PLAIN_FILTER else (task, kind, metric)
    return "/".join(_name(part) for part in parts)


def _name(text: str) -> str:
    """Return what MLflow takes as a part of a metric's name, and a file system as a file's."""
    return NOT_IN_A_NAME.sub("_", text)


def _json(content: Any) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False, default=handle_non_serializable)
