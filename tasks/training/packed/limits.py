"""Sizes at which the packed path works in pieces; apart from it, as the estimate of memory counts with them too."""

CHUNK = 64
"""Positions whose logits exist at once, for each thread: enough for a product at full speed on a CPU."""
LONGEST_DIRECT = 1024
"""Longest row whose attention weights, heads · length² of them, are computed whole on a CPU and kept for backward."""
