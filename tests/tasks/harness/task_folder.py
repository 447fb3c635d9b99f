"""A benchmarks folder as a person fills it: task files, and rows beside them."""

import json
from pathlib import Path
from typing import Any

import yaml

CHOICE_ROWS: list[dict[str, Any]] = [
    {"question": "What does abs(x) do?", "choices": ["Return the absolute value", "Return a list"], "gold": 0},
    {"question": "What does os.listdir() do?", "choices": ["import math", "Return the names", "100"], "gold": 1},
    {"question": "The quick brown fox jumps over", "choices": ["the lazy dog.", "a number"], "gold": 0},
    {"question": "What does json.dumps(obj) do?", "choices": ["raise ValueError", "Serialize obj"], "gold": 1},
    {"question": "The future of artificial intelligence is", "choices": ["bright.", "between 0 and 100"], "gold": 1},
]
CHOICE_TASK: dict[str, Any] = {
    "task": "which",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "which.jsonl"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{gold}}",
    "metric_list": [
        {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
    ],
}
ANSWER_TASK: dict[str, Any] = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "sums.jsonl"}},
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "Question: {{question}}\nAnswer:",
    "doc_to_target": "{{answer}}",
    "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": False},
    "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
}


def write_task(folder: Path, task: dict[str, Any], rows: list[dict[str, Any]] | None = None, /, **changes: Any) -> Path:
    """Write a task's file, and its rows where its data files say; returns the file."""
    folder.mkdir(parents=True, exist_ok=True)
    if rows is not None:
        name = task["dataset_kwargs"]["data_files"]["test"]
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    number = len(list(folder.glob("*.yaml")))
    file = folder / f"task-{number}.yaml"
    file.write_text(yaml.safe_dump({**task, **changes}))
    return file
