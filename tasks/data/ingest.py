"""Reads an uploaded data set in a process of its own: `python -m tasks.data.ingest`, a request on its input, JSON out.

Whatever a file does to its reader (memory, a crash of native code) ends here. The kernel holds the limits.
"""

import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from configs.chat_format import ChatFormat
from configs.dataset import UPLOAD
from configs.recipe import CutRows
from configs.settings import Settings
from tasks.data.chat_windows import Splitter
from tasks.data.chosen_format import choose_format, try_format
from tasks.data.dataset_rows import rows_of
from tasks.data.examples import DatasetError, Example
from tasks.data.importing import import_dataset
from tasks.data.local_files import local_file
from tasks.data.reading.source import open_source
from tasks.data.rows import ExampleRows
from tasks.data.segments import IGNORED_LABEL
from tasks.data.split import split_rows
from tasks.data.store import StoredDataset
from tasks.data.tokenizing import Encoder
from tasks.data.tool_forms import ToolRenderer
from tasks.data.windows import window_lengths

GIGABYTE = 1024**3
UNPACKED_TO_UPLOADED = 4
"""Rows may take this many times the largest upload on disk: compressed files can hold far more than they weigh."""

TEMPLATE_SECONDS = 5
"""Processor time that a chat template may take for a few conversations, its tokenizer's loading included."""

Answer = dict[str, Any]


class OutOfTime(Exception):
    """What was asked takes too long; no `DatasetError`, as those of single renderings are expected."""


def ingest(settings: Settings, request: dict[str, Any]) -> Answer:
    """Check and store a data set's rows; an answer that is not `ok` says why they can't be used."""
    dataset, options = request["dataset"], request["dataset"]["settings"]
    tokenizer = _tokenizer(request)
    report, stored = import_dataset(
        open_source(_file_of(settings, dataset), options.get("columns"), options.get("file_name")),
        tokenizer,
        options["max_seq_length"],
        settings.datasets_dir,
        allow_errors=options.get("allow_errors", False),
        cut_rows=options.get("cut_rows", "truncate"),
        processes=min(settings.ingest_processes, len(os.sched_getaffinity(0))),
    )
    answer: Answer = {"ok": stored is not None, "report": report.as_json()}
    if stored is None:
        return answer | {"error": _objection(answer["report"])}
    # Raises now what would else be raised when a job has waited for its turn.
    _training_positions(settings, stored, options)
    return answer | {"rows": len(stored), "content_hash": stored.fingerprint}


def preview(settings: Settings, request: dict[str, Any]) -> Answer:
    """Return the first rows, and as a model would read them if that is asked for."""
    dataset = request["dataset"]
    options = dataset["settings"]
    rows = rows_of(settings.datasets_dir, dataset["source"], dataset["content_hash"])
    training = set(_training_positions(settings, rows, options).tolist())
    reader = None
    if request["rendered"]:
        reader = _Reader(_tokenizer(request), options.get("max_seq_length"), options.get("cut_rows", "truncate"))
    shown = []
    for position in range(min(request["rows"], len(rows))):
        example = rows.example(position)
        messages = [message.for_template() for message in example.messages] or None
        row = {
            "number": rows.number(position) if isinstance(rows, StoredDataset) else position + 1,
            "side": "train" if position in training else "held_out",
            "messages": messages,
            "text": example.text,
        }
        shown.append(row | (reader.read(example) if reader else {}))
    return {"ok": True, "rows": shown}


class _Reader:
    """Shows examples as a model reads them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, max_seq_length: int | None, cut_rows: CutRows) -> None:
        self._tokenizer = tokenizer
        self._max_seq_length = max_seq_length
        self._cut_rows = cut_rows
        self._renderer, self._encoder = ToolRenderer(tokenizer), Encoder(tokenizer)

    def read(self, example: Example) -> Answer:
        rendered, _ = self._renderer.row(example)
        batch = self._encoder.encode([rendered])
        tokenized = next(batch.cut_rows(len(batch.token_ids)))
        counted = tokenized.weights or [float(label != IGNORED_LABEL) for label in tokenized.labels]
        tokens = [
            {"id": token_id, "text": self._tokenizer.decode([token_id]), "learned": weight > 0, "weight": weight}
            for token_id, weight in zip(tokenized.input_ids, counted, strict=True)
        ]
        windows = self._windows(example, len(tokens))
        return {
            "rendered": rendered.text,
            "tokens": tokens,
            "cut": len(windows) == 1 and windows[0] < len(tokens),
            "windows": windows,
        }

    def _windows(self, example: Example, tokens: int) -> list[int]:
        """Return the tokens of each window that training reads of a row."""
        longest = self._max_seq_length
        if longest is None or tokens <= longest:
            return [tokens]
        if example.text is not None:
            return window_lengths(tokens, longest)
        if self._cut_rows != "split":
            return [longest]
        windows = Splitter(self._tokenizer, longest).windows(example)
        return list(map(int, self._encoder.encode([self._renderer.row(window)[0] for window in windows]).lengths))


def _training_positions(settings: Settings, rows: ExampleRows, options: dict[str, Any]) -> np.ndarray[Any, Any]:
    held_out = options.get("held_out_content")
    own = rows_of(settings.datasets_dir, held_out["source"], held_out["content_hash"]).hashes if held_out else None
    return split_rows(rows.hashes, options.get("held_out_fraction", 0.1), own).train


def fetch(settings: Settings, request: dict[str, Any]) -> Answer:
    """Download a data set of the hub to where an upload of it would lie, as one Parquet file."""
    import datasets

    dataset = request["dataset"]
    name, target = dataset["source"], settings.uploads_dir / dataset["uid"]
    work = settings.uploads_dir / f"{dataset['uid']}.fetched"  # the parent removes it, also when it ends this process
    work.mkdir(parents=True, exist_ok=True)
    split = dataset["settings"].get("split", "train")
    try:
        loaded = datasets.load_dataset(name, split=split, cache_dir=str(work / "cache"))
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0][:200] or type(error).__name__
        folder = settings.local_datasets_dir
        message = f"there is no file {name} in {folder}, and the hub did not provide it ({reason})"
        raise DatasetError(message) from error
    loaded.to_parquet(str(work / "rows.parquet"))
    (work / "rows.parquet").replace(target)
    return {"ok": True}


def check_format(settings: Settings, request: dict[str, Any]) -> Answer:
    """Say whether a chat format can be had with the tokenizer, and writes conversations in a few seconds."""
    signal.signal(signal.SIGVTALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, TEMPLATE_SECONDS)
    try_format(_tokenizer(request))
    return {"ok": True}


def _out_of_time(*_: object) -> NoReturn:
    raise OutOfTime(
        f"chat_template takes longer than {TEMPLATE_SECONDS} s of processor time to write a few short conversations"
    )


def _file_of(settings: Settings, dataset: dict[str, Any]) -> Path:
    """Return the file that holds the rows: what was uploaded or fetched, or a local one."""
    received: Path = settings.uploads_dir / dataset["uid"]
    if dataset["source"] == UPLOAD or received.is_file():
        return received
    found = local_file(dataset["source"], settings.local_datasets_dir)
    if found is None:
        raise DatasetError(f"there is no file {dataset['source']} in {settings.local_datasets_dir}")
    return found


def _tokenizer(request: dict[str, Any]) -> PreTrainedTokenizerBase:
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
        request["tokenizer"], local_files_only=True, trust_remote_code=False
    )
    for chosen in request["chat_formats"]:
        choose_format(tokenizer, ChatFormat.model_validate(chosen))
    return tokenizer


def _objection(report: dict[str, Any]) -> str:
    if report["error_count"]:
        first = report["errors"][0]
        return (
            f"{report['error_count']} of {report['rows']} rows can't be used, the first is number {first['number']}: "
            f"{first['message']}; mend them, or send allow_errors=true to leave them out"
        )
    return f"none of its {report['rows']} rows keeps an answer within {report['max_seq_length']} tokens"


def _limit(settings: Settings) -> None:
    memory, size = int(settings.ingest_memory_gb * GIGABYTE), UNPACKED_TO_UPLOADED * settings.max_upload_bytes
    # Private memory, not address space: stored rows are mapped, and may be larger than memory.
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


ACTIONS = {"fetch": fetch, "ingest": ingest, "preview": preview, "check_format": check_format}


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    settings = Settings(**request["settings"])
    _limit(settings)
    try:
        answer = ACTIONS[request["action"]](settings, request)
    except (DatasetError, OutOfTime) as error:
        answer = {"ok": False, "error": str(error), "report": None}
    except MemoryError:
        answer = {"ok": False, "error": f"reading it takes more than {settings.ingest_memory_gb:g} GB of memory"}
    except OSError as error:
        answer = {"ok": False, "error": f"it can't be read or stored: {error}"}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    main()
