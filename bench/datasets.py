"""Preparing a data set, ours beside the plain `datasets` way: `python -m bench.datasets [--rows 1000000]`.

Ours reads, validates, stores and tokenizes a JSONL file, then prepares it for training (split, counts, masks). The
peers load the same file with `datasets.load_dataset("json")` and tokenize it by a batched `.map`: "chat" renders each
row in the model's chat format, as a fine-tune needs it; "text" tokenizes question and answer as they are, the least
work that there could be. Each run is a process of its own with a fresh folder; ours and the peers' take turns. Seconds
are of the work alone, without imports and the tokenizer's loading; the memory is the process's peak, with them.
"""

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MODEL = Path("data/models/HuggingFaceTB/SmolLM2-135M-Instruct")
LONGEST = 512
WORDS = """\
the a of to and in is that it for was on are as with they at be this from have or by one had not but what all were when
we there can an your which their if will each about how up out them then she many some so these would other into has
more two like him see time could no make than first been its who now people my made over did down only way find use may
water long little very after words called just where most know function returns list string value file model training
data network language tokens gradient Python dictionary exception iterator asynchronous café 🦊 naïve"""


def make_rows(path: Path, rows: int) -> None:
    """Questions of about 60 and answers of about 100 characters, with a long tail, no two alike."""
    generator, words = random.Random(7), WORDS.split()
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            question, answer = (
                " ".join(generator.choices(words, k=max(1, int(generator.lognormvariate(mean, 0.5)))))
                for mean in (2.3, 2.9)
            )
            file.write(json.dumps({"question": f"{question} {number}?", "answer": f"{answer}."}) + "\n")


def ours(path: Path, folder: Path) -> int:
    from transformers import AutoTokenizer

    from tasks.data.importing import import_dataset
    from tasks.data.prepared import prepare
    from tasks.data.reading.source import open_source

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    with timed():
        _, dataset = import_dataset(open_source(path), tokenizer, LONGEST, folder)
        assert dataset is not None
        prepared = prepare(dataset, tokenizer, LONGEST, dataset.folder)
    return len(prepared.train) + len(prepared.held_out)


def peer(path: Path, folder: Path, *, chat: bool) -> int:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(MODEL)

    def tokenize(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        pairs = zip(batch["question"], batch["answer"], strict=True)
        if chat:
            turns = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in pairs]
            texts = tokenizer.apply_chat_template(turns, tokenize=False)
        else:
            texts = [f"{question}\n{answer}" for question, answer in pairs]
        token_ids: list[list[int]] = tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"]
        return {"input_ids": token_ids}

    with timed():
        loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
        rows = loaded.map(tokenize, batched=True, remove_columns=["question", "answer"])
    return len(rows)


class timed:  # noqa: N801 - reads as a statement
    """Prints the seconds of the block, and what the process has used until then."""

    def __enter__(self) -> None:
        self._started, self._busy = time.perf_counter(), time.process_time()

    def __exit__(self, *_: object) -> None:
        seconds, busy = time.perf_counter() - self._started, time.process_time() - self._busy
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps({"seconds": seconds, "processor": busy, "peak": peak}), flush=True)


def run_here(kind: str, path: Path, folder: Path) -> None:
    count = ours(path, folder) if kind == "ours" else peer(path, folder, chat=kind == "chat")
    assert count > 0


def measure(kind: str, path: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder}
        command = [sys.executable, "-m", "bench.datasets", "--run", kind, "--path", str(path), "--folder", folder]
        output = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def compare(rows: int, rounds: int) -> None:
    kinds = ("ours", "chat", "text")
    results: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        make_rows(path, rows)
        print(f"{rows:,} rows, {path.stat().st_size / 1e6:.0f} MB")
        for _ in range(rounds):
            for kind in kinds:
                results[kind].append(measure(kind, path))
    print(f"{'':6} {'rows/s':>9} {'rows/s of processor':>20} {'peak MB':>8}")
    for kind, runs in results.items():
        seconds, processor = (statistics.median(run[of] for run in runs) for of in ("seconds", "processor"))
        print(f"{kind:6} {rows / seconds:9,.0f} {rows / processor:20,.0f} {max(run['peak'] for run in runs):8,.0f}")
    for kind in kinds[1:]:
        ratios = [
            theirs["seconds"] / mine["seconds"] for mine, theirs in zip(results["ours"], results[kind], strict=True)
        ]
        print(f"ours is {statistics.median(ratios):.2f} times as fast as {kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", choices=("ours", "chat", "text"), help="one measurement, in this process")
    parser.add_argument("--path", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.run:
        run_here(arguments.run, arguments.path, arguments.folder)
        return
    for rows in (arguments.rows // 10, arguments.rows):
        compare(rows, arguments.rounds)


if __name__ == "__main__":
    main()
