"""The engine: takes requests for any model, loads what they need within a memory budget, answers many at a time."""

import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import torch

from tasks.inference.base import BasePlan
from tasks.inference.decoding import CPU_STEP, GPU_STEP, StepSize
from tasks.inference.embedding import Embedding, EmbeddingRequest
from tasks.inference.errors import EngineClosed, InputTooLong, PromptTooLong, RequestTooLarge, TooLargeForMemory
from tasks.inference.generation import Generation, GenerationRequest, TokenLogprobs
from tasks.inference.listener import Listener
from tasks.inference.network.load import cache_bytes_per_token, needed_for_base
from tasks.inference.probe import DeviceProbe
from tasks.inference.request import ModelRef, Request
from tasks.inference.weight_cache import WeightCache
from tasks.inference.worker import BaseWorker, Limits, Tally, WorkerSettings
from tasks.models.loading import context_length, load_config
from tasks.models.process_state import damage

__all__ = [
    "Embedding",
    "EmbeddingRequest",
    "Engine",
    "EngineStats",
    "Generation",
    "GenerationRequest",
    "Limits",
    "ModelRef",
    "ModelStats",
    "TokenLogprobs",
]

STUCK_SECONDS = 120.0
"""A step of a few hundred tokens that takes longer will not end."""
PROBE_SECONDS = 10.0


@dataclass(frozen=True)
class ModelStats:
    """One base: where it lies, its bytes in memory with arena and adapters, its requests, its arena in tokens."""

    weights: str
    loaded: bool
    adapters: list[str]
    bytes: int
    running: int
    waiting: int
    cache_tokens_used: int
    cache_tokens: int


@dataclass(frozen=True)
class EngineStats:
    """All bases that are loaded or asked for, and the sums."""

    models: list[ModelStats]
    bytes: int
    budget_bytes: int
    running: int
    waiting: int
    generated_tokens: int
    """Since the engine's start."""


class Engine:
    """Generates tokens with every model asked for. Its methods may be called from any thread.

    Each base has one thread, which advances its running sequences together, and `kv_cache_bytes` at most for their keys
    and values.
    """

    def __init__(
        self,
        dtype: torch.dtype,
        device: torch.device,
        memory_budget_bytes: int,
        kv_cache_bytes: int = 1_000_000_000,
        limits: Limits | None = None,
        step: StepSize | None = None,
        int8: bool = False,
    ) -> None:
        limits = limits or Limits()
        step = step or (CPU_STEP if device.type == "cpu" else GPU_STEP)
        self._settings = WorkerSettings(dtype, device, limits, step, int8)
        self._kv_cache_bytes = kv_cache_bytes
        self._weight_cache: WeightCache[BaseWorker] = WeightCache(memory_budget_bytes, limits.patience_seconds)
        self._tally = Tally()
        self._probe = DeviceProbe(device, STUCK_SECONDS, PROBE_SECONDS)
        self._contexts: dict[Path, int] = {}
        self._plans: dict[Path, BasePlan] = {}

    def context_length(self, weights: Path) -> int:
        """Return the context of the base in `weights`, in tokens; raises `WeightsError` if there is no model."""
        if weights not in self._contexts:
            self._contexts[weights] = context_length(load_config(weights))
        return self._contexts[weights]

    def submit(self, request: GenerationRequest, listener: Listener | None = None) -> Generation:
        """Queue a request and return at once; its weights are loaded when it is scheduled.

        A failure to load is the generation's outcome, not raised here.

        Raises:
            PromptTooLong: the prompt fills the model's context.
            RequestTooLarge: prompt and continuation can never fit into the arena.
            ValueError: an id of the prompt, of `logit_bias` or of `stop_token_ids` is not in the model's vocabulary.
            EngineBusy: too many requests wait for this base.
            WeightsError: there is no usable model in the folder.
            EngineClosed: `close` was called.
        """
        context, plan = self.context_length(request.model.weights), self._plan_of(request.model.weights)
        room = context - len(request.prompt_ids)
        if room < min(1, request.max_new_tokens):
            raise PromptTooLong(len(request.prompt_ids), context)
        _require_known("prompt_ids", request.prompt_ids, plan)
        _require_known("logit_bias", request.logit_bias, plan)
        _require_known("stop_token_ids", request.stop_token_ids, plan)
        most = len(request.prompt_ids) + min(request.max_new_tokens, room)
        if most > plan.cache_tokens:
            raise RequestTooLarge(most, plan.cache_tokens)
        generation = Generation(
            request, min(request.max_new_tokens, room), self._wake, listener, self._settings.limits.request_seconds
        )
        self._enqueue(generation, plan)
        return generation

    def embed(self, request: EmbeddingRequest, listener: Listener | None = None) -> Embedding:
        """Queue a text to embed in the same queue and return at once; a failure to load is its outcome.

        Raises:
            InputTooLong: the text is longer than the model's context, or than the arena.
            ValueError: an id is not in the model's vocabulary.
            EngineBusy, WeightsError, EngineClosed: as `submit`.
        """
        context, plan = self.context_length(request.model.weights), self._plan_of(request.model.weights)
        if len(request.prompt_ids) > context:
            raise InputTooLong(len(request.prompt_ids), context)
        if len(request.prompt_ids) > plan.cache_tokens:
            raise InputTooLong(len(request.prompt_ids), plan.cache_tokens, "the engine's cache (engine_kv_cache_gb)")
        _require_known("prompt_ids", request.prompt_ids, plan)
        embedding = Embedding(request, self._wake, listener, self._settings.limits.request_seconds)
        self._enqueue(embedding, plan)
        return embedding

    def generate(self, request: GenerationRequest) -> list[int]:
        """Return all token ids of the answer; raises what `submit` raises, and load failures."""
        return self.submit(request).result()

    def stats(self) -> EngineStats:
        """Return what is loaded, running and waiting right now."""
        with self._weight_cache.changed:
            models = [
                ModelStats(
                    weights=str(worker.folder),
                    loaded=worker.base is not None,
                    adapters=[] if worker.base is None else [str(folder) for folder in worker.base.adapters],
                    bytes=worker.held_bytes,
                    running=len(worker.running),
                    waiting=len(worker.waiting),
                    cache_tokens_used=0 if worker.base is None else worker.base.allocator.used,
                    cache_tokens=0 if worker.base is None else worker.base.allocator.capacity,
                )
                for worker in self._weight_cache.holders.values()
            ]
            return EngineStats(
                models=models,
                bytes=self._weight_cache.held_bytes,
                budget_bytes=self._weight_cache.budget_bytes,
                running=sum(model.running for model in models),
                waiting=sum(model.waiting for model in models),
                generated_tokens=self._tally.generated.total(),
            )

    def trouble(self) -> str | None:
        """Return why requests can't be answered though the process runs, in a sentence's part; None: they can."""
        now = time.monotonic()
        with self._weight_cache.changed:
            for worker in self._weight_cache.holders.values():
                if not worker.is_alive():
                    return f"the thread that decodes with {worker.folder} has ended, and requests wait for it"
                if (since := worker.step_since) is not None and now - since > STUCK_SECONDS:
                    return f"a step with {worker.folder} has taken {now - since:.0f} s and is not done"
            if self._tally.died:
                return next(iter(self._tally.died.values()))
        return damage() or self._probe.trouble()

    def close(self, timeout: float = 5.0) -> bool:
        """Cancel all requests and free all weights; return whether all threads ended within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        with self._weight_cache.changed:
            self._weight_cache.closing = True
            workers = list(self._weight_cache.holders.values())
            for worker in workers:
                for request in [*worker.waiting, *(sequence.request for sequence in worker.running)]:
                    request.cancelled = True
            self._weight_cache.changed.notify_all()
        for worker in workers:
            worker.join(max(0.0, deadline - time.monotonic()))
        return not any(worker.is_alive() for worker in workers)

    def _enqueue(self, request: Request, plan: BasePlan) -> None:
        """Add a request to its base's queue; raises `EngineBusy` and `EngineClosed`."""
        with self._weight_cache.changed:
            if self._weight_cache.closing:
                raise EngineClosed
            folder = request.model.weights
            if (worker := self._weight_cache.holders.get(folder)) is None:
                worker = BaseWorker(folder, plan, self._weight_cache, self._settings, self._tally)
                self._weight_cache.holders[folder] = worker
                worker.start()
            worker.enqueue(request)

    def _plan_of(self, weights: Path) -> BasePlan:
        """Return the memory plan of a base: the arena gets at most half of what the weights leave of the budget."""
        if (plan := self._plans.get(weights)) is None:
            config, dtype = load_config(weights), self._settings.dtype
            own = needed_for_base(weights, dtype, self._settings.device, int8=self._settings.int8)
            budget = self._weight_cache.budget_bytes
            if own > budget:
                raise TooLargeForMemory(str(weights), own, budget)
            per_token = cache_bytes_per_token(config, dtype)
            useful = self._settings.limits.concurrency * self.context_length(weights)
            tokens = min(useful, min(self._kv_cache_bytes, (budget - own) // 2) // per_token)
            plan = BasePlan(config.get_text_config().vocab_size, own, tokens * per_token, tokens)
            self._plans[weights] = plan
        return plan

    def _wake(self) -> None:
        with self._weight_cache.changed:
            self._weight_cache.changed.notify_all()


def _require_known(field: str, ids: Collection[int], plan: BasePlan) -> None:
    """Raise ValueError if an id is not in the vocabulary."""
    if ids and (min(ids) < 0 or max(ids) >= plan.vocabulary):
        wrong = min(ids) if min(ids) < 0 else max(ids)
        raise ValueError(
            f"{field} holds the id {wrong}, which is outside the model's vocabulary of {plan.vocabulary} tokens"
        )
