"""LLaMA-Factory's training from its own configuration: `python -m bench.training_peers.llamafactory bf16|packing`.

`packing` is its neat packing, in which an example sees itself alone.
"""

import json
import sys
from pathlib import Path

from bench.training_peers import meter
from bench.training_peers.recipe import trainer_arguments

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
"""What the model's chat template puts first; LLaMA-Factory's template of that name ends it with a full stop."""


def write_data(folder: Path) -> None:
    """Write the examples, and the register in which LLaMA-Factory looks data sets up."""
    rows = [{"question": question, "answer": answer} for question, answer in meter.examples()]
    entry = {"file_name": "rows.json", "columns": {"prompt": "question", "response": "answer"}}
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    (folder / "dataset_info.json").write_text(json.dumps({"rows": entry}), encoding="utf-8")


def main(kind: str) -> None:
    """Train in bfloat16 under autocast, on rows as they are or packed."""
    meter.meter_trainer(f"llamafactory-{kind}")

    from llamafactory.train.tuner import run_exp

    packing = kind == "packing"
    with trainer_arguments(meter.PACKED_BATCH if packing else meter.BATCH) as given:
        folder = given["output_dir"]
        write_data(Path(folder))
        run_exp(
            {
                **given,
                "model_name_or_path": meter.MODEL,
                "stage": "sft",
                "do_train": True,
                "finetuning_type": "lora",
                "lora_rank": meter.RANK,
                "lora_alpha": meter.ALPHA,
                "lora_dropout": meter.DROPOUT,
                "lora_target": "all",
                "dataset_dir": folder,
                "dataset": "rows",
                "cache_dir": folder,
                "template": "smollm2",
                "default_system": SYSTEM,
                "cutoff_len": meter.MAX_LENGTH,
                "packing": packing,
                "neat_packing": packing,
                "bf16": True,
                "disable_gradient_checkpointing": True,
            }
        )


if __name__ == "__main__":
    main(sys.argv[1])
