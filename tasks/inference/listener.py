"""The callback by which the engine reports a request's progress; importable without torch."""

from collections.abc import Callable

STARTED = -1
Listener = Callable[[int | None], None]
"""Called on the engine's thread, and must return at once: with `STARTED` when the request begins to run (its weights
are loaded), with every token id, and with None at the end."""
