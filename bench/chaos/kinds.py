"""The kinds of jobs, and what one leaves behind: every logged number and the adapter's bytes."""

import hashlib
from dataclasses import dataclass
from typing import Any

import httpx
from mlflow import MlflowClient

from bench.chaos.platform import ChaosPlatform

METRICS = ("loss", "learning_rate", "eval_loss")
ADAPTER_FILE = "adapter_model.safetensors"
COMMON = {"max_seq_length": 64, "lora_r": 2, "learning_rate": 0.005}


def job_kinds(steps: int) -> dict[str, dict[str, Any]]:
    """Return the request of each kind; `base_model` names one of the tiny models, the longest has `steps` steps."""
    return {
        "llama": COMMON
        | {"base_model": "tiny-llama", "batch_size": 2, "lora_dropout": 0.1, "eval_every": 90, "max_steps": steps},
        "llama-accumulating": COMMON
        | {"base_model": "tiny-llama", "batch_size": 2, "gradient_accumulation": 2, "lora_dropout": 0.2, "seed": 7}
        | {"eval_every": 70, "lr_scheduler": "cosine", "max_steps": steps * 2 // 3},
        "gpt2": COMMON
        | {"base_model": "tiny-gpt2", "batch_size": 3, "lora_dropout": 0.1, "seed": 3, "eval_every": 110}
        | {"max_steps": steps * 5 // 6},
    }


def spans(steps: list[int]) -> str:
    """Return sorted steps as people write them: `3, 7-9`; `none` if there are none."""
    runs: list[list[int]] = []
    for step in steps:
        if runs and step == runs[-1][-1] + 1:
            runs[-1].append(step)
        else:
            runs.append([step])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs) or "none"


@dataclass(frozen=True)
class Outcome:
    """What a completed job has logged and made."""

    metrics: dict[str, list[tuple[int, float]]]
    """(step, value) of every logged point, in order; a point logged twice is there twice."""
    adapters: dict[str, str]
    """SHA-256 of the adapter's file, by where it lies: in MLflow, and where models are served from."""

    def differences(self, reference: "Outcome") -> list[str]:
        """Return one sentence per metric that differs from the reference, and one if the adapter does."""
        found = []
        for name in METRICS:
            mine, other = self.metrics[name], reference.metrics[name]
            if mine != other:
                steps = [step for step, _ in mine]
                twice = sorted({step for step in steps if steps.count(step) > 1})
                missing = sorted({step for step, _ in other} - set(steps))
                wrong = sorted({step for step, _ in set(mine) - set(other)})
                found.append(
                    f"{name} differs: logged twice {spans(twice)}, missing {spans(missing)}, other value {spans(wrong)}"
                )
        found += [
            f"the adapter {place} has the SHA-256 {mine}, not {reference.adapters[place]}"
            for place, mine in self.adapters.items()
            if mine != reference.adapters[place]
        ]
        return found


def read_outcome(platform: ChaosPlatform, mlflow_run_id: str) -> Outcome:
    """Return what MLflow has of a completed job."""
    client = MlflowClient(platform.mlflow_url)
    metrics = {
        name: sorted((point.step, point.value) for point in client.get_metric_history(mlflow_run_id, name))
        for name in METRICS
    }
    artifact = {"run_uuid": mlflow_run_id, "path": f"adapter/{ADAPTER_FILE}"}
    logged = httpx.get(f"{platform.mlflow_url}/get-artifact", params=artifact, timeout=60).raise_for_status().content
    uid = client.get_run(mlflow_run_id).data.tags["training_job_uid"]
    served = (platform.data_dir / "adapters" / uid / ADAPTER_FILE).read_bytes()
    adapters = {"in MLflow": logged, "that is served": served}
    return Outcome(metrics, {place: hashlib.sha256(content).hexdigest() for place, content in adapters.items()})
