"""Data sets: examples, splits, templates, tokenized caches."""
