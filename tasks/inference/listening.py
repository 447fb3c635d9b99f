"""What the owner of a request hears of it, on the engine's thread; importable without torch."""

from collections.abc import Callable

STARTED = -1
Listener = Callable[[int | None], None]
"""Called with `STARTED` once the request has its place and all of its weights, with every token, and once with None at
the end. It must return at once."""
