"""Inference: token ids in, tokens out; knows nothing of HTTP."""
