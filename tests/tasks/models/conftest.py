"""What the tests of inference make once serves those of the models' files too."""

from tests.tasks.inference.conftest import adapters_dir, make_engine, one_thread

__all__ = ["adapters_dir", "make_engine", "one_thread"]
