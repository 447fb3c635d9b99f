"""Chunk sizes of the packed backend, which the memory estimate uses too."""

CHUNK = 64
"""Positions whose logits exist at once, for each thread: enough for a product at full speed on a CPU."""
LONGEST_DIRECT = 1024
"""Longest row whose attention weights, heads · length² of them, are computed at once on a CPU and kept for backward."""
