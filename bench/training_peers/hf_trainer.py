"""Hugging Face Trainer with peft: `python -m bench.training_peers.hf_trainer fp32|bf16`."""

import sys
import tempfile

from bench.training_peers import meter

KIND = sys.argv[1]
meter.meter_trainer(f"hf-trainer-{KIND}")

import torch  # noqa: E402 - the meter comes first
from datasets import Dataset  # noqa: E402
from peft import LoraConfig, get_peft_model  # noqa: E402
from transformers import (  # noqa: E402
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)

tokenizer = AutoTokenizer.from_pretrained(meter.MODEL)
rows = Dataset.from_list([meter.encode(tokenizer, *example) for example in meter.examples()])
lora = LoraConfig(
    r=meter.RANK,
    lora_alpha=meter.ALPHA,
    lora_dropout=meter.DROPOUT,
    target_modules="all-linear",
    task_type="CAUSAL_LM",
)
model = get_peft_model(AutoModelForCausalLM.from_pretrained(meter.MODEL, dtype=torch.float32), lora)
with tempfile.TemporaryDirectory() as folder:
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=meter.BATCH,
        max_steps=meter.WARMUP + meter.STEPS,
        learning_rate=meter.RATE,
        use_cpu=True,
        bf16=KIND == "bf16",
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
    )
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True)
    Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collator).train()
