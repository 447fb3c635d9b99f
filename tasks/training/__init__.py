"""Fine-tuning: methods, data cursor, exact checkpoints, the training loop."""
