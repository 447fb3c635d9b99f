"""The inference process: HTTP around `tasks.inference`."""
