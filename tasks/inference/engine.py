"""The engine: takes requests for any model, loads what they need within a memory budget, answers many at a time."""

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.inference.errors import EngineClosed, PromptTooLong
from tasks.inference.generation import Generation, GenerationRequest, Listener, ModelRef
from tasks.inference.loading import context_length, load_config
from tasks.inference.residency import Residency
from tasks.inference.worker import BaseWorker

__all__ = ["Engine", "EngineStats", "Generation", "GenerationRequest", "ModelRef", "ModelStats"]


@dataclass(frozen=True)
class ModelStats:
    """One base: where it lies, its bytes in memory with adapters, and its requests."""

    weights: str
    loaded: bool
    adapters: list[str]
    bytes: int
    running: int
    waiting: int


@dataclass(frozen=True)
class EngineStats:
    """All bases that are loaded or asked for, and the sums."""

    models: list[ModelStats]
    bytes: int
    budget_bytes: int
    running: int
    waiting: int


@dataclass(frozen=True)
class _Limits:
    context: int
    vocabulary: int


class Engine:
    """Generates tokens with every model asked for. Its methods may be called from any thread.

    Each base has one thread, which advances up to `concurrency` sequences in turn; up to `queue_length` more wait.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        device: torch.device,
        memory_budget_bytes: int,
        concurrency: int = 8,
        queue_length: int = 256,
    ) -> None:
        self._placement = (dtype, device)
        self._concurrency = concurrency
        self._queue_length = queue_length
        self._residency: Residency[BaseWorker] = Residency(memory_budget_bytes)
        self._limits: dict[Path, _Limits] = {}

    def context_length(self, weights: Path) -> int:
        """Return the context of the base in `weights`, in tokens; raises `WeightsError` if there is no model."""
        return self._limits_of(weights).context

    def submit(self, request: GenerationRequest, listener: Listener | None = None) -> Generation:
        """Put a request in line and return at once; its weights are loaded when its turn comes.

        A failure to load is the generation's outcome, not raised here.

        Raises:
            PromptTooLong: the prompt fills the model's context.
            ValueError: a prompt id is not in the model's vocabulary.
            EngineBusy: too many requests wait for this base.
            WeightsError: there is no model in the folder.
            EngineClosed: `close` was called.
        """
        limits = self._limits_of(request.model.weights)
        room = limits.context - len(request.prompt_ids)
        if room < 1:
            raise PromptTooLong(len(request.prompt_ids), limits.context)
        if min(request.prompt_ids) < 0 or max(request.prompt_ids) >= limits.vocabulary:
            raise ValueError(f"prompt_ids holds an id outside the model's vocabulary of {limits.vocabulary}")
        generation = Generation(request, min(request.max_new_tokens, room), self._wake, listener)
        with self._residency.changed:
            if self._residency.closing:
                raise EngineClosed
            folder = request.model.weights
            if (worker := self._residency.holders.get(folder)) is None:
                worker = BaseWorker(folder, self._residency, self._placement, self._concurrency, self._queue_length)
                self._residency.holders[folder] = worker
                worker.start()
            worker.enqueue(generation)
        return generation

    def generate(self, request: GenerationRequest) -> list[int]:
        """Return the request's token ids when all are there; raises what `submit` raises, and load failures."""
        return self.submit(request).result()

    def stats(self) -> EngineStats:
        """Return what is loaded, running and waiting right now."""
        with self._residency.changed:
            models = [
                ModelStats(
                    weights=str(worker.folder),
                    loaded=worker.base is not None,
                    adapters=[] if worker.base is None else [str(folder) for folder in worker.base.adapters],
                    bytes=worker.held_bytes,
                    running=len(worker.running),
                    waiting=len(worker.waiting),
                )
                for worker in self._residency.holders.values()
            ]
            return EngineStats(
                models=models,
                bytes=self._residency.held_bytes,
                budget_bytes=self._residency.budget_bytes,
                running=sum(model.running for model in models),
                waiting=sum(model.waiting for model in models),
            )

    def close(self, timeout: float = 5.0) -> bool:
        """Cancel everything and let go of all weights; tell whether all threads ended within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._residency.changed:
            self._residency.closing = True
            workers = list(self._residency.holders.values())
            for worker in workers:
                for generation in [*worker.waiting, *(sequence.generation for sequence in worker.running)]:
                    generation.cancelled = True
            self._residency.changed.notify_all()
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in workers)

    def _limits_of(self, weights: Path) -> _Limits:
        if (known := self._limits.get(weights)) is None:
            config = load_config(weights)
            known = _Limits(context_length(config), config.get_text_config().vocab_size)
            self._limits[weights] = known
        return known

    def _wake(self) -> None:
        with self._residency.changed:
            self._residency.changed.notify_all()
