"""Hugging Face Trainer with peft: `python -m bench.training_peers.hf_trainer fp32|bf16`."""

import sys

from bench.training_peers import meter
from bench.training_peers.recipe import lora_config, trainer_arguments


def main(kind: str) -> None:
    """Train a float32 model, in `bf16` under autocast."""
    meter.meter_trainer(f"hf-trainer-{kind}")

    import torch
    from datasets import Dataset
    from peft import get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
    )

    tokenizer = AutoTokenizer.from_pretrained(meter.MODEL)
    rows = Dataset.from_list([meter.encode(tokenizer, *example) for example in meter.examples()])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(meter.MODEL, dtype=torch.float32), lora_config())
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    with trainer_arguments(meter.BATCH) as given:
        arguments = TrainingArguments(**given, bf16=kind == "bf16")
        Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train()


if __name__ == "__main__":
    main(sys.argv[1])
