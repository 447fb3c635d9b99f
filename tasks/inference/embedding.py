"""A request for one vector that stands for a text: the mean of the model's last hidden states over its tokens."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from tasks.inference.errors import EngineClosed
from tasks.inference.listening import Listener
from tasks.inference.request import Handle, ModelRef


@dataclass(frozen=True)
class EmbeddingRequest:
    """Token ids to read, all of them in one go of the model's context."""

    model: ModelRef
    prompt_ids: list[int]

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("prompt_ids is empty: there is nothing to embed")


class Embedding(Handle):
    """The vector of one request, while it is made and after."""

    def __init__(
        self, request: EmbeddingRequest, wake: Callable[[], None], listener: Listener | None, seconds: float
    ) -> None:
        """`seconds` is the longest time that it may wait and run."""
        super().__init__(request.model, request.prompt_ids, 0, wake, listener, seconds)
        self.vector: Tensor | None = None
        """float32 `[width]` on the CPU, once it is done: the mean over the tokens, of whatever length it has."""

    def result(self, timeout: float | None = None) -> Tensor:
        """Wait for the vector; raises what `wait` raises, and `EngineClosed` if it was cancelled."""
        self.wait(timeout)
        if self.vector is None:
            raise EngineClosed
        return self.vector

    def deliver(self, vector: Tensor) -> None:
        """Have the vector, before the end is told (the engine's side)."""
        self.vector = vector
