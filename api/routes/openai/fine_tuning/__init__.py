"""OpenAI's fine-tuning: jobs, their events and checkpoints, over our training jobs."""
