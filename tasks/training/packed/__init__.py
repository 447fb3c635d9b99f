"""The fast step backend: packed rows, models of the Llama family, few activations kept for the backward pass."""
