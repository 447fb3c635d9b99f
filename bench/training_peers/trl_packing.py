"""TRL's SFTTrainer over a bfloat16 base with its packing: three packed rows of 512 tokens hold about eight examples."""

import tempfile

from bench.training_peers import meter

meter.meter_trainer("trl-packing")

from datasets import Dataset  # noqa: E402 - the meter comes first
from peft import LoraConfig  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402
from trl import SFTConfig, SFTTrainer  # noqa: E402

rows = Dataset.from_list(
    [
        {"prompt": [{"role": "user", "content": question}], "completion": [{"role": "assistant", "content": answer}]}
        for question, answer in meter.examples()
    ]
)
lora = LoraConfig(
    r=meter.RANK,
    lora_alpha=meter.ALPHA,
    lora_dropout=meter.DROPOUT,
    target_modules="all-linear",
    task_type="CAUSAL_LM",
)
with tempfile.TemporaryDirectory() as folder:
    arguments = SFTConfig(
        output_dir=folder,
        per_device_train_batch_size=3,
        max_steps=meter.WARMUP + meter.STEPS,
        max_length=meter.MAX_LENGTH,
        packing=True,
        bf16=True,
        use_cpu=True,
        learning_rate=meter.RATE,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": "bfloat16"},
    )
    SFTTrainer(
        model=meter.MODEL,
        args=arguments,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(meter.MODEL),
        peft_config=lora,
    ).train()
