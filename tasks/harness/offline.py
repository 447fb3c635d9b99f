"""The Hugging Face libraries' offline mode, for as long as a block runs."""

from collections.abc import Iterator
from contextlib import contextmanager

import datasets.config
import evaluate.config
import huggingface_hub.constants

# Where the libraries keep what they read from HF_HUB_OFFLINE and its like when they were imported, long before now.
SWITCHES = (
    (huggingface_hub.constants, "HF_HUB_OFFLINE"),
    (datasets.config, "HF_HUB_OFFLINE"),
    (datasets.config, "HF_DATASETS_OFFLINE"),
    (evaluate.config, "HF_EVALUATE_OFFLINE"),
)


@contextmanager
def offline() -> Iterator[None]:
    """Have every request to the hub refused at once; what is in the Hugging Face cache stays readable."""
    before = [getattr(module, name) for module, name in SWITCHES]
    for module, name in SWITCHES:
        setattr(module, name, True)
    try:
        yield
    finally:
        for (module, name), value in zip(SWITCHES, before, strict=True):
            setattr(module, name, value)
