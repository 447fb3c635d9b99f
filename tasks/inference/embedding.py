"""Embedding requests: the vector of a text is the mean of the model's last hidden states over its tokens."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tasks.inference.errors import EngineClosed
from tasks.inference.listener import Listener
from tasks.inference.request import ModelRef, Request


@dataclass(frozen=True)
class EmbeddingRequest:
    """Token ids to embed; all of them must fit into the model's context."""

    model: ModelRef
    prompt_ids: list[int]

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("prompt_ids is empty: there is nothing to embed")


class Embedding(Request):
    """An embedding request in the engine, and its result."""

    def __init__(
        self, request: EmbeddingRequest, wake: Callable[[], None], listener: Listener | None, seconds: float
    ) -> None:
        """`seconds` is the request's time limit, waiting included."""
        super().__init__(request.model, request.prompt_ids, 0, wake, listener, seconds)
        self.vector: Tensor | None = None
        """float32 `[width]` on the CPU once it is done: the mean over the tokens, not normalised."""

    def result(self, timeout: float | None = None) -> Tensor:
        """Wait for the vector; raises what `wait` raises, and `EngineClosed` if it was cancelled."""
        self.wait(timeout)
        if self.vector is None:
            raise EngineClosed
        return self.vector

    def deliver(self, vector: Tensor) -> None:
        """Store the result; called by the engine before `finish`."""
        self.vector = vector
