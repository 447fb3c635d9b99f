"""LoRA fine-tuning: adapters, data cursor, exact checkpoints, the training loop."""
