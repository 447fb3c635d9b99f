"""Models: list, create, and generate text."""
