"""Measurements: each script prints a table or a ratio; none decides a test."""
