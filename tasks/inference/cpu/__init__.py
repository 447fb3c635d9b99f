"""The inference step on a CPU: the Llama family as machine code that numba compiles on the user's machine."""
