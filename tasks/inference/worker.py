"""The decode thread of one base: loads it on demand, admits waiting requests, advances all running ones together."""

import gc
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tasks.inference.admitted import AdmittedSequences
from tasks.inference.base import BasePlan, LoadedBase
from tasks.inference.decoding import StepSize, decode_step
from tasks.inference.errors import EngineBusy, InferenceError, TooLargeForMemory
from tasks.inference.network.load import needed_for_adapter
from tasks.inference.queue import FairQueue
from tasks.inference.request import FinishReason, Request
from tasks.inference.sequences import ActiveSequence
from tasks.inference.weight_cache import Evictable, Holder, WeightCache
from tasks.models.errors import WeightsError


@dataclass(frozen=True)
class Load:
    """What has to be loaded for the next request: the base (if `base` is None), an adapter, or both."""

    request: Request
    base: LoadedBase | None
    adapter: Path | None


@dataclass(frozen=True)
class Limits:
    """Limits of one base: requests running at once, further ones queued, and the seconds that any may take.

    Once a base has waited `patience_seconds` for memory that others hold, those admit no more requests.
    `range_tokens` is the room behind its prompt that a sequence begins with, and what that grows by at least.
    """

    concurrency: int = 32
    queue_length: int = 256
    request_seconds: float = 600.0
    patience_seconds: float = 5.0
    range_tokens: int = 256


@dataclass(frozen=True)
class WorkerSettings:
    """Device and precision, the limits of each base, and the size of a step."""

    dtype: torch.dtype
    device: torch.device
    limits: Limits
    step: StepSize
    int8: bool = False
    """Whether weights are quantised to eight bits, where that is implemented."""


@dataclass(frozen=True)
class Tally:
    """What the engine knows of its bases beyond their threads' lives; each thread writes what is its own base's."""

    generated: Counter[Path] = field(default_factory=Counter)
    """Tokens since the engine's start."""
    died: dict[Path, str] = field(default_factory=dict)
    """What ended a base's thread out of order, until the base is loaded again."""


class BaseWorker(threading.Thread):
    """One base, its request queue, and its decode thread. Fields are guarded by `weight_cache.changed`."""

    def __init__(
        self,
        folder: Path,
        plan: BasePlan,
        weight_cache: "WeightCache[BaseWorker]",
        settings: WorkerSettings,
        tally: Tally,
    ) -> None:
        """`tally` outlives this thread."""
        super().__init__(name=f"decode-{folder.name}", daemon=True)
        self.folder = folder
        self.base: LoadedBase | None = None
        self.waiting = FairQueue()
        self.admitted = AdmittedSequences(
            settings.limits.range_tokens, weight_cache.changed, lambda needed: weight_cache.make_room(needed, self)
        )
        self._weight_cache = weight_cache
        self._plan = plan
        self._settings = settings
        self._tally = tally
        self.step_since: float | None = None
        self._reserved = 0  # bytes of the weights being loaded
        self.waiting_for_memory_since: float | None = None
        self._last_used = time.monotonic()

    @property
    def held_bytes(self) -> int:
        """Bytes of the loaded weights, of those being loaded, and of what is or may have to be swapped out."""
        if self.base is None:
            return self._reserved
        return self._reserved + self.base.total_bytes + self.admitted.host_bytes(self.base)

    def enqueue(self, request: Request) -> None:
        """Queue a request; raises `EngineBusy` if the queue is full."""
        limits = self._settings.limits
        if len(self.waiting) + len(self.admitted) >= limits.concurrency + limits.queue_length:
            raise EngineBusy(len(self.waiting))
        self.waiting.append(request)
        self._weight_cache.changed.notify_all()

    def evictable(self, requester: Holder) -> list[Evictable]:
        """Return the idle adapters, or for another base's request everything, if nothing is running or loading here."""
        base = self.base
        if base is None or self._reserved:
            return []
        if requester is not self:
            return [] if self.admitted else [Evictable(self._last_used, base.total_bytes, self._evict)]
        used = {sequence.adapter for sequence in self.admitted}
        return [
            Evictable(adapter.last_used, adapter.bytes, lambda folder=folder: base.drop_adapter(folder))  # type: ignore[misc]
            for folder, adapter in base.adapters.items()
            if folder not in used
        ]

    def run(self) -> None:
        """Serve until the engine closes, or until the base is evicted and its queue is empty."""
        try:
            while self._work():
                pass
        except BaseException as error:
            outcome = InferenceError(f"the engine's thread for {self.folder} failed: {error}")
            self._tally.died[self.folder] = str(outcome)
            with self._weight_cache.changed:
                self._leave(outcome)
            raise

    def _work(self) -> bool:
        """Wait for the next work item and do it; False when there will be none. Keeps no reference to the base."""
        work = self._next_work()
        if isinstance(work, Load):
            self._load(work)
        elif work is not None:
            self.step_since = time.monotonic()
            sequences = self.admitted.prepare(work, self._ended)
            self._tally.generated[self.folder] += decode_step(work, sequences, self._settings.step, self._ended)
            self.step_since = None
        return work is not None

    def _next_work(self) -> Load | LoadedBase | None:
        """Wait for something to do: to load, or to decode with the base; None ends the thread."""
        with self._weight_cache.changed:
            while True:
                self._drop_ended()
                if self._weight_cache.closing or not (self.base or self.waiting or self.admitted):
                    self._leave("cancelled")
                    return None
                if self.base is not None:
                    self.admitted.resume(self.base)
                if (load := self._admit()) is not None:
                    return load
                if self.admitted and self.base is not None:
                    return self.base
                deadlines = [request.deadline for request in self.waiting]
                self._weight_cache.changed.wait(max(0.0, min(deadlines) - time.monotonic()) if deadlines else None)

    def _admit(self) -> Load | None:
        """Start queued requests while there are free slots; return what the next one needs loaded, if anything."""
        while len(self.admitted) < self._settings.limits.concurrency and not self._weight_cache.must_yield(self):
            request = self.waiting.next([sequence.adapter for sequence in self.admitted])
            if request is None:
                break
            adapter = request.model.adapter
            if self.base is not None and (adapter is None or adapter in self.base.adapters):
                if not self._start(request, self.base):
                    return None  # later requests wait too: a stream of short ones would starve a long one
                continue
            try:
                needed = self._needed_bytes(adapter)
            except WeightsError as error:
                self.waiting.remove(request)
                request.finish(error)
                continue
            if not self._weight_cache.make_room(needed, self):
                self.waiting_for_memory_since = self.waiting_for_memory_since or time.monotonic()
                return None  # notified when weights are freed
            self.waiting_for_memory_since = None
            self._reserved = needed
            return Load(request, self.base, adapter)
        if not self.waiting:
            self.waiting_for_memory_since = None
        return None

    def _start(self, request: Request, base: LoadedBase) -> bool:
        """Allocate a range of the arena and start the request; False while there is too little room."""
        if not self.admitted.admit(request, base):
            return False
        self.waiting.remove(request)
        self.waiting_for_memory_since = None
        request.begin()
        self._touch(request.model.adapter)
        return True

    def _needed_bytes(self, adapter: Path | None) -> int:
        """Return the bytes still to load for a request with `adapter`; raises `WeightsError` if it can never fit."""
        loaded = self.base.bytes if self.base is not None else 0
        needed = 0 if self.base is not None else self._plan.weight_bytes + self._plan.cache_bytes
        if adapter is not None:
            settings = self._settings
            needed += needed_for_adapter(self.folder, adapter, settings.dtype, settings.device, int8=settings.int8)
        if loaded + needed > self._weight_cache.budget_bytes:
            raise TooLargeForMemory(str(adapter or self.folder), loaded + needed, self._weight_cache.budget_bytes)
        return needed

    def _load(self, load: Load) -> None:
        """Load the missing weights and start the request. Their memory is reserved; no lock is held meanwhile."""
        if load.base is None:
            gc.collect()  # an evicted model sits in reference cycles
            if self._settings.device.type == "cuda":
                torch.cuda.empty_cache()
        failure: Exception | None = None
        base, adapter, attached = load.base, load.adapter, None
        try:
            if base is None:
                settings = self._settings
                base = LoadedBase(self.folder, self._plan, settings.dtype, settings.device, int8=settings.int8)
            if adapter is not None:
                attached = base.load_adapter(adapter)
        except WeightsError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the thread's edge: it becomes the request's outcome
            failure = WeightsError(f"{adapter or self.folder} can't be loaded: {error}")
        with self._weight_cache.changed:
            self._reserved = 0
            self.base = base
            if base is not None and adapter is not None and attached is not None:
                base.adapters[adapter] = attached
            if failure is None and base is not None:
                self._tally.died.pop(self.folder, None)
                # Under the same lock: another base's thread could evict this idle base before its request runs.
                self._start(load.request, base)
            else:
                self.waiting.remove(load.request)
            self._weight_cache.changed.notify_all()
        if failure is not None:
            load.request.finish(failure)

    def _ended(self, sequence: ActiveSequence, outcome: FinishReason | InferenceError) -> None:
        """Free the sequence's slot, then report the end: whoever is notified finds the slot free."""
        with self._weight_cache.changed:
            self._retire(sequence)
        sequence.request.finish(outcome)

    def _retire(self, sequence: ActiveSequence) -> None:
        """Remove a sequence from the batch and free what it holds."""
        if self.base is not None:
            self.admitted.remove(sequence, self.base)
        self._touch(sequence.adapter)
        self._weight_cache.changed.notify_all()

    def _touch(self, adapter: Path | None) -> None:
        self._last_used = time.monotonic()
        if self.base is not None and adapter is not None:
            self.base.adapters[adapter].last_used = self._last_used

    def _drop_ended(self) -> None:
        """End cancelled requests and those over their time limit."""
        now = time.monotonic()
        for request in self.waiting:
            if (outcome := request.must_end(now)) is not None:
                self.waiting.remove(request)
                request.finish(outcome)
        for sequence in self.admitted:
            if (outcome := sequence.request.must_end(now)) is not None:
                self._retire(sequence)
                sequence.request.finish(outcome)

    def _evict(self) -> None:
        """Free the base and its adapters; called by another base's thread, while this one is idle."""
        self._free_base()
        self._weight_cache.changed.notify_all()

    def _free_base(self) -> None:
        if self.base is not None:
            self.base.close()
        self.base = None

    def _leave(self, outcome: FinishReason | InferenceError) -> None:
        """End every request with `outcome` and remove this worker from the engine."""
        self._free_base()
        self._weight_cache.holders.pop(self.folder, None)
        for request in [*self.waiting, *(sequence.request for sequence in self.admitted)]:
            request.finish(outcome)
        self.waiting.clear()
        self.admitted.clear()
        self._weight_cache.changed.notify_all()
