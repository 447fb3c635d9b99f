"""Webhooks: tells targets on the network how training jobs ended."""
