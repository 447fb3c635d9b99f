"""What every request in the engine has: its place in line, its end, and the one who may wait for it or cancel it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.inference.errors import RequestTimedOut
from tasks.inference.listening import STARTED, Listener

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class ModelRef:
    """A base model's folder, and the folder of the adapter on top of it, if any. Both are immutable once used."""

    weights: Path
    adapter: Path | None = None


class Handle:
    """A request while it waits and runs, and after. Another thread ends it; anyone may cancel it."""

    def __init__(
        self,
        model: ModelRef,
        prompt_ids: list[int],
        max_new_tokens: int,
        wake: Callable[[], None],
        listener: Listener | None,
        seconds: float,
    ) -> None:
        """`seconds` is the longest time that it may wait and run."""
        self.model = model
        self.prompt_ids = prompt_ids
        self.max_new_tokens = max_new_tokens
        """The request's limit, lowered to what the model's context leaves; 0 if nothing is generated."""
        self.finish_reason: FinishReason | None = None
        self.error: Exception | None = None
        self.cancelled = False
        """Whether `cancel` was called; the engine drops the request before its next step."""
        self.deadline = time.monotonic() + seconds
        self._seconds = seconds
        self._changed = threading.Condition()
        self._wake = wake
        self._listener = listener

    @property
    def done(self) -> bool:
        """Whether nothing further will come."""
        return self.finish_reason is not None or self.error is not None

    @property
    def delivered(self) -> int:
        """How many tokens have come so far."""
        return 0

    def wait(self, timeout: float | None = None) -> None:
        """Wait for the end.

        Raises:
            TimeoutError: `timeout` seconds passed.
            InferenceError: whatever the request failed with.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.done, timeout):
                raise TimeoutError(f"no complete answer within {timeout} s")
        if self.error is not None:
            raise self.error

    def cancel(self) -> None:
        """Ask the engine to drop this request; its place is free within a step. Harmless when it is done."""
        self.cancelled = True
        self._wake()

    def must_end(self, now: float) -> FinishReason | RequestTimedOut | None:
        """Return why it may not go on at the time `now` (`time.monotonic`), None if it may."""
        if self.cancelled:
            return "cancelled"
        return RequestTimedOut(self._seconds, self.delivered) if now >= self.deadline else None

    def begin(self) -> None:
        """Tell that the request waits no longer (the engine's side)."""
        self._tell(STARTED)

    def finish(self, outcome: FinishReason | Exception) -> None:
        """End with a reason or an error (the engine's side); only the first end counts."""
        with self._changed:
            if self.done:
                return
            if isinstance(outcome, Exception):
                self.error = outcome
            else:
                self.finish_reason = outcome
            self._changed.notify_all()
        self._tell(None)

    def _tell(self, news: int | None) -> None:
        if self._listener is not None:
            self._listener(news)
