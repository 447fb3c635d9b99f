"""guidellm: a benchmark of four requests, one after another."""

import json
import os
import subprocess
import sys
from pathlib import Path

from reporting import BASE_URL, MODEL, capability

ROOT = BASE_URL.removesuffix("/v1")


def benchmark(request_format: str) -> dict:
    """Run it and return the requests that the report has as successful."""
    report = Path.home() / "report.json"
    rows = Path.home() / "rows.jsonl"
    rows.write_text("\n".join(json.dumps({"prompt": f"Tell of the number {number}."}) for number in range(8)))
    command = [sys.executable, "-P", "-m", "guidellm", "run", "--disable-console"]
    command += ["--backend", f"kind=openai_http,target={ROOT},model={MODEL},request_format={request_format}"]
    command += ["--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=4"]
    command += [
        "--data",
        f"kind=json_file,path={rows}",
        "--tokenizer",
        f"kind=hf_auto,model={os.environ['MODEL_FOLDER']}",
    ]
    command += ["--output", f"kind=json,path={report}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-600:]
    totals = json.loads(report.read_text())["benchmarks"][0]["metrics"]["request_totals"]
    assert totals["successful"] == 4, totals
    return totals


@capability("stream")
def _():
    return benchmark("/v1/chat/completions")


@capability("responses")
def _():
    return benchmark("/v1/responses")
