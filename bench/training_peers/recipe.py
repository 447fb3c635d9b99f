"""What every tool built on `transformers.Trainer` gets: the same arguments, the same LoRA."""

from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

from bench.training_peers import meter


@contextmanager
def trainer_arguments(batch: int) -> Iterator[dict[str, Any]]:
    """Give the arguments of a training with `batch` rows a step, whose output goes when the block is left."""
    with TemporaryDirectory() as folder:
        yield {
            "output_dir": folder,
            "per_device_train_batch_size": batch,
            "max_steps": meter.WARMUP + meter.STEPS,
            "learning_rate": meter.RATE,
            "use_cpu": True,
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
            "seed": 0,
        }


def lora_config() -> Any:
    """Return peft's configuration of the LoRA on all linear layers."""
    from peft import LoraConfig

    return LoraConfig(
        r=meter.RANK,
        lora_alpha=meter.ALPHA,
        lora_dropout=meter.DROPOUT,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
