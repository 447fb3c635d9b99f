"""The engine's numeric core: one call advances any mix of sequences, each with its own length and adapter."""
