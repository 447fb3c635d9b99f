"""Preparing chats, ours beside `datasets.map` with transformers' own mask: `python -m bench.datasets [--rows 1000000]`.

Ours is all that becomes of an upload: it reads, validates, stores, renders, finds and verifies what is learned,
tokenizes, splits and counts. The peer loads the same JSON lines with `datasets.load_dataset` and calls
`apply_chat_template(return_assistant_tokens_mask=True)` in a batched `.map`: token ids and a mask, nothing checked,
with the templates that `trl` has given marks by hand. Both have the same tokenizer (SmolLM2's, with each format's own
special tokens) and the formats of ChatML (Qwen2.5's), Llama 3, Qwen3. Ours looks at rows in `--processes` processes, as
an upload does; the peer tokenizes in threads on all cores, and with `--peer-processes` maps in several processes.

Each run is a process of its own with a fresh folder. Slices of the rows are taken by turns, ours and the peer's; ours
then prepares all rows at once, for its memory. Seconds are of the work alone, without imports and the tokenizer's
loading; processor time is that of all processes; memory is the most that all processes have at once, each shared page
counted once (Pss, looked at four times a second). With `--data FILE`, its rows are repeated in place of made ones.
"""

import argparse
import itertools
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

MODEL = Path("data/models/HuggingFaceTB/SmolLM2-135M-Instruct")
LONGEST = 512
FORMATS = {"qwen2_5": "<|im_end|>", "llama3": "<|eot_id|>", "qwen3": "<|im_end|>"}
"""Templates as `trl` names them, with the token that ends a turn."""
SPECIAL = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
WORDS = """\
the a of to and in is that it for was on are as with they at be this from have or by one had not but what all were when
we there can an your which their if will each about how up out them then she many some so these would other into has
more two like him see time could no make than first been its who now people my made over did down only way find use may
water long little very after words called just where most know function returns list string value file model training
data network language tokens gradient Python dictionary exception iterator asynchronous café 🦊 naïve"""


def made_rows(rows: int) -> Any:
    """Yield questions of about 60 and answers of about 100 characters, with a long tail, no two alike."""
    generator, words = random.Random(7), WORDS.split()
    for number in range(rows):
        question, answer = (
            " ".join(generator.choices(words, k=max(1, int(generator.lognormvariate(mean, 0.5)))))
            for mean in (2.3, 2.9)
        )
        yield [
            {"role": "user", "content": f"{question} {number}?"},
            {"role": "assistant", "content": f"{answer}."},
        ]


def rows_of_file(path: Path, rows: int) -> Any:
    """Yield the conversations of a file that an upload takes, again and again; those of contents only."""
    from tasks.data.reading.source import open_source

    examples = [row.example for row in open_source(path) if row.example is not None]
    plain = [example.messages for example in examples if all(turn.has_only_content for turn in example.messages)]
    for messages in itertools.islice(itertools.cycle(plain), rows):
        yield [{"role": message.role, "content": message.content} for message in messages]


def write_rows(path: Path, conversations: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        for messages in conversations:
            file.write(json.dumps({"messages": messages}, ensure_ascii=False) + "\n")


def tokenizer_of(template: str, *, marked: bool) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL, "eos_token": FORMATS[template]})
    name = f"{template}_training.jinja" if marked else f"{template}.jinja"
    tokenizer.chat_template = (files("trl") / "chat_templates" / name).read_text(encoding="utf-8")
    return tokenizer


def ours(path: Path, folder: Path, template: str, processes: int) -> int:
    from tasks.data.importing import import_dataset
    from tasks.data.prepared import prepare
    from tasks.data.reading.source import open_source

    tokenizer = tokenizer_of(template, marked=False)
    with timed():
        _, dataset = import_dataset(open_source(path), tokenizer, LONGEST, folder, processes=processes)
        assert dataset is not None
        prepared = prepare(dataset, tokenizer, LONGEST, dataset.folder)
    assert prepared.train[0].answer_tokens > 0
    return len(prepared.train) + len(prepared.held_out)


def peer(path: Path, folder: Path, template: str, processes: int) -> int:
    import datasets

    datasets.disable_progress_bars()
    tokenizer = tokenizer_of(template, marked=True)

    def tokenize(batch: dict[str, Any]) -> Any:
        return tokenizer.apply_chat_template(
            batch["messages"],
            return_assistant_tokens_mask=True,
            return_dict=True,
            truncation=True,
            max_length=LONGEST,
        )

    with timed():
        loaded = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=str(folder))
        several = {"num_proc": processes} if processes > 1 else {}
        rows = loaded.map(tokenize, batched=True, remove_columns=["messages"], **several)
    assert any(rows[0]["assistant_masks"])
    return len(rows)


class timed:  # noqa: N801 - reads as a statement
    """Prints the seconds of the block, and the processor time that it and its children took."""

    def __enter__(self) -> None:
        self._started, self._busy = time.perf_counter(), processor_seconds()

    def __exit__(self, *_: object) -> None:
        seconds, busy = time.perf_counter() - self._started, processor_seconds() - self._busy
        print(json.dumps({"seconds": seconds, "processor": busy}), flush=True)


def processor_seconds() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def memory(pid: int) -> int:
    """Return the bytes that a process and those below it have, a shared page counted once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return 0  # it has just ended
    own = next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
    return 1024 * own + sum(memory(int(child)) for child in children)


def measure(kind: str, path: Path, template: str, processes: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": folder}
        command = [sys.executable, "-m", "bench.datasets", "--run", kind, "--path", str(path), "--folder", folder]
        command += ["--template", template, "--processes", str(processes)]
        peak = 0
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.25)
            assert process.stdout is not None
            output = process.stdout.read()
        if process.returncode:
            raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}")
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result | {"peak": peak / 2**20}


def compare(
    rows: int, slice_rows: int, rounds: int, data: Path | None, templates: list[str], processes: dict[str, int]
) -> None:
    results: dict[tuple[str, str], list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        all_rows, some_rows = Path(folder) / "rows.jsonl", Path(folder) / "slice.jsonl"
        for path, count in ((all_rows, rows), (some_rows, slice_rows)):
            write_rows(path, rows_of_file(data, count) if data else made_rows(count))
        print(f"slices of {slice_rows:,} rows by turns; all are {rows:,}, {all_rows.stat().st_size / 1e6:.0f} MB")
        for _, template, kind in itertools.product(range(rounds), FORMATS, ("ours", "map")):
            run = measure(kind, some_rows, template, processes[kind])
            results.setdefault((template, kind), []).append(run)
            print(f"  {template} {kind}: {run['seconds']:.1f} s, {run['processor']:.1f} s of processor", flush=True)
        table(results, slice_rows)
        whole = {(template, "ours"): [measure("ours", all_rows, template, processes["ours"])] for template in templates}
    table(whole, rows)


def table(results: dict[tuple[str, str], list[dict[str, float]]], rows: int) -> None:
    print(f"{rows:9,} rows {'rows/s':>9} {'rows/s of processor':>20} {'peak MB':>8}")
    for (template, kind), runs in results.items():
        seconds, processor = (statistics.median(run[of] for run in runs) for of in ("seconds", "processor"))
        peak = max(run["peak"] for run in runs)
        print(f"{template:9} {kind:4} {rows / seconds:9,.0f} {rows / processor:20,.0f} {peak:8,.0f}", flush=True)
    for of, words in (("seconds", "in time"), ("processor", "in processor time")):
        pairs = {
            template: list(zip(results[template, "ours"], results[template, "map"], strict=True))
            for template in FORMATS
            if (template, "map") in results
        }
        ratios = {name: [theirs[of] / mine[of] for mine, theirs in runs] for name, runs in pairs.items()}
        for name, found in ratios.items():
            print(f"{name}: ours is {statistics.median(found):.2f} times as fast {words}")
        if ratios:
            together = statistics.median(itertools.chain.from_iterable(ratios.values()))
            print(f"all: ours is {together:.2f} times as fast {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--slice", type=int, default=50_000, help="rows of each slice")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--data", type=Path, help="a file of chats to take the rows from")
    parser.add_argument("--all-of", nargs="*", default=list(FORMATS), choices=FORMATS, help="formats of all rows")
    parser.add_argument("--processes", type=int, default=2, help="processes that look at rows (ours)")
    parser.add_argument("--peer-processes", type=int, default=1)
    parser.add_argument("--run", choices=("ours", "map"), help="one measurement, in this process")
    parser.add_argument("--template", choices=FORMATS)
    parser.add_argument("--path", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.run:
        run = ours if arguments.run == "ours" else peer
        assert run(arguments.path, arguments.folder, arguments.template, arguments.processes) > 0
        return
    processes = {"ours": arguments.processes, "map": arguments.peer_processes}
    compare(arguments.rows, arguments.slice, arguments.rounds, arguments.data, arguments.all_of, processes)


if __name__ == "__main__":
    main()
