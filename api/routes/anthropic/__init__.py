"""Anthropic's Messages API, over the same chat service: its requests, answers, events and errors."""
