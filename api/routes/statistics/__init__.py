"""Statistics of the whole platform."""
