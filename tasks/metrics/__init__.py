"""Evaluation metrics, as subclasses of `evaluate.Metric` and plain functions."""
