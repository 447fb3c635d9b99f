"""The same LoRA training by several tools, each metered the same way and run in its own environment."""
