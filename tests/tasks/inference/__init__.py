"""Tests of tasks.inference."""
