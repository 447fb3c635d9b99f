"""Evaluations: run and list."""
