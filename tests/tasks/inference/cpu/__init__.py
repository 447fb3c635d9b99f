"""Tests of tasks.inference.cpu."""
