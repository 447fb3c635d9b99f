"""TRL's SFTTrainer over a bfloat16 base with its packing: three packed rows of 512 tokens hold about eight examples."""

from bench.training_peers import meter
from bench.training_peers.recipe import lora_config, trainer_arguments


def main() -> None:
    """Train on packed rows."""
    meter.meter_trainer("trl-packing")

    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list(
        [
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": answer}],
            }
            for question, answer in meter.examples()
        ]
    )
    with trainer_arguments(meter.PACKED_BATCH) as given:
        arguments = SFTConfig(
            **given,
            max_length=meter.MAX_LENGTH,
            packing=True,
            bf16=True,
            gradient_checkpointing=False,
            model_init_kwargs={"dtype": "bfloat16"},
        )
        SFTTrainer(
            model=meter.MODEL,
            args=arguments,
            train_dataset=rows,
            processing_class=AutoTokenizer.from_pretrained(meter.MODEL),
            peft_config=lora_config(),
        ).train()


if __name__ == "__main__":
    main()
