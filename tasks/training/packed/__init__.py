"""The fast training path: rows packed end to end, models of the Llama family, little kept for the backward pass."""
