"""Weights and tokenizers from files, and back into files for other programs."""
