"""A request in the engine: its model and prompt, its state, and how to wait for it or cancel it."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tasks.inference.errors import RequestTimedOut
from tasks.inference.listener import STARTED, Listener

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class ModelRef:
    """A base model's folder, and the folder of the adapter on top of it, if any. Both are immutable once used."""

    weights: Path
    adapter: Path | None = None


class Request:
    """A queued, running or finished request. The engine's thread ends it; any thread may wait for it or cancel it."""

    def __init__(
        self,
        model: ModelRef,
        prompt_ids: list[int],
        max_new_tokens: int,
        wake: Callable[[], None],
        listener: Listener | None,
        seconds: float,
    ) -> None:
        """`seconds` is the request's time limit, waiting included."""
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
        """How many tokens have been generated so far."""
        return 0

    def wait(self, timeout: float | None = None) -> None:
        """Block until the request has ended.

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
        """Ask the engine to drop this request, which it does before its next step. No effect on a finished one."""
        self.cancelled = True
        self._wake()

    def must_end(self, now: float) -> FinishReason | RequestTimedOut | None:
        """Return why it has to end at the time `now` (`time.monotonic`), None if it may go on."""
        if self.cancelled:
            return "cancelled"
        return RequestTimedOut(self._seconds, self.delivered) if now >= self.deadline else None

    def begin(self) -> None:
        """Report that the request runs now; called by the engine."""
        self._notify(STARTED)

    def finish(self, outcome: FinishReason | Exception) -> None:
        """End with a reason or an error; called by the engine. Only the first call counts."""
        with self._changed:
            if self.done:
                return
            if isinstance(outcome, Exception):
                self.error = outcome
            else:
                self.finish_reason = outcome
            self._changed.notify_all()
        self._notify(None)

    def _notify(self, event: int | None) -> None:
        if self._listener is not None:
            self._listener(event)
