"""Data sets: upload, validation, preview."""
