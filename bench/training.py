"""Training speed beside the tools people would use instead: real tokens per second, peak memory, time to first step.

`python -m bench.training --data FOLDER --peers PYTHON --llamafactory PYTHON` trains the packaged model on the first 256
rows of gsm8k (`gsm8k-train.jsonl`) and of alpaca (`alpaca_en_demo.json`) with every tool, one after the other in each
round, each in a process of its own; the first PYTHON is an interpreter that has torch, transformers, peft, datasets and
trl, the second one that has torch and llamafactory. Padding does not count as tokens. Time per token of processor time
is the steadier figure where other work runs on the same cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
MODEL = ROOT / "data" / "models" / "HuggingFaceTB" / "SmolLM2-135M-Instruct"
DATA = {"gsm8k": "gsm8k-train.jsonl", "alpaca": "alpaca_en_demo.json"}
OURS = {"ours-packed": ["ours", "packed"], "ours-padded": ["ours", "padded"]}
PEERS = {
    "hf-trainer-fp32": ["hf_trainer", "fp32"],
    "hf-trainer-bf16": ["hf_trainer", "bf16"],
    "trl-packing": ["trl_packing"],
}
LLAMAFACTORY = {
    "llamafactory-bf16": ["llamafactory", "bf16"],
    "llamafactory-packing": ["llamafactory", "packing"],
}
TOOLS = OURS | PEERS | LLAMAFACTORY
FIGURES = ("tokens_per_second", "tokens_per_cpu_second", "peak_gib", "first_step_seconds")


def measure(python: str, command: list[str], data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run one tool in a process of its own and return what its meter printed."""
    module, *arguments = command
    environment = os.environ | {
        "BENCH_MODEL": str(options.model),
        "BENCH_DATA": str(data),
        "BENCH_STEPS": str(options.steps),
        "OMP_NUM_THREADS": str(options.threads),
        "MKL_NUM_THREADS": str(options.threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
    }
    finished = subprocess.run(
        [python, "-m", f"bench.training_peers.{module}", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line.removeprefix("RESULT ") for line in finished.stdout.splitlines() if line.startswith("RESULT ")]
    if finished.returncode or not lines:
        raise RuntimeError(f"{module} ended with {finished.returncode}:\n{finished.stderr[-2000:]}")
    figures: dict[str, Any] = json.loads(lines[-1])
    return figures


def print_table(name: str, runs: dict[str, list[dict[str, Any]]]) -> None:
    """Print each tool's medians, and how many times as fast as it we are in both measures of time."""
    print(f"\n{name}: medians of {min(map(len, runs.values()))} rounds")
    print(
        "| tool | tokens/s [range] | tokens/CPU s | peak GiB | first step, s | ours ÷ it | ours ÷ it, CPU s | memory |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    medians = {
        tool: {figure: statistics.median(run[figure] for run in of_tool) for figure in FIGURES}
        for tool, of_tool in runs.items()
    }
    ours = medians["ours-packed"]
    for tool, of_tool in runs.items():
        speed, cpu_speed, peak, first = medians[tool].values()
        low, high = (pick(run["tokens_per_second"] for run in of_tool) for pick in (min, max))
        ratios = (ours["tokens_per_second"] / speed, ours["tokens_per_cpu_second"] / cpu_speed, ours["peak_gib"] / peak)
        print(
            f"| {tool} | {speed:.0f} [{low:.0f}-{high:.0f}] | {cpu_speed:.0f} | {peak:.2f} | {first:.1f} | "
            + " | ".join(f"{ratio:.2f}" for ratio in ratios)
            + " |"
        )
    fast = runs["ours-packed"]
    shares = [run["flops_per_token"] * run["tokens_per_second"] / run["product_rate"] for run in fast]
    rate = statistics.median(run["product_rate"] for run in fast)
    print(
        f"roofline: {fast[0]['flops_per_token'] / 1e6:.0f} MFLOP a token, {rate / 1e9:.0f} GFLOP/s in bfloat16; "
        f"share {statistics.median(shares):.2f}",
        flush=True,
    )


def main() -> None:
    """Measure and print a table for each data set."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with the two data files")
    parser.add_argument("--peers", help="interpreter of Trainer and TRL; without it they are not run")
    parser.add_argument("--llamafactory", help="interpreter of LLaMA-Factory; without it that is not run")
    parser.add_argument("--model", type=Path, default=MODEL, help="folder of the model")
    parser.add_argument("--only", nargs="+", choices=DATA, default=list(DATA), help="data sets")
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), help="beside ours-packed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8, help="metered steps, after one more")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    pythons = (
        dict.fromkeys(OURS, sys.executable)
        | dict.fromkeys(PEERS, options.peers)
        | dict.fromkeys(LLAMAFACTORY, options.llamafactory)
    )
    for name in options.only:
        runs: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for _ in range(options.rounds):
            for tool, command in TOOLS.items():
                if tool in {"ours-packed", *options.tools} and pythons[tool]:
                    result = measure(pythons[tool], command, options.data / DATA[name], options)
                    runs[tool].append(result)
                    print(name, json.dumps(result), f"load {os.getloadavg()[0]:.1f}", file=sys.stderr, flush=True)
        print_table(name, runs)


if __name__ == "__main__":
    main()
