"""Python's search for unused objects, kept from looking through a whole process again and again as rows go by."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def older_objects_left_alone() -> Iterator[None]:
    """Within it, only objects made since are searched: libraries have a million, and a data set's rows make many."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
