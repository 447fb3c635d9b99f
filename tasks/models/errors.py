"""What is wrong with a model's files."""


class WeightsError(Exception):
    """A model or adapter folder is missing, damaged, too large, or holds no safetensors."""
