"""The decode thread of one base: loads it on demand, admits waiting requests, advances all running ones together."""

import gc
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tasks.inference.base import BasePlan, LoadedBase
from tasks.inference.decoding import StepSize, decode_step
from tasks.inference.errors import EngineBusy, InferenceError, TooLargeForMemory
from tasks.inference.network.load import needed_for_adapter
from tasks.inference.queue import FairLine
from tasks.inference.request import FinishReason, Handle
from tasks.inference.residency import Evictable, Holder, Residency
from tasks.inference.sequences import ActiveSequence, active_sequence
from tasks.models.errors import WeightsError


@dataclass(frozen=True)
class Load:
    """What the request whose turn it is still lacks: the base (None: it is there), an adapter, or both."""

    handle: Handle
    base: LoadedBase | None
    adapter: Path | None


@dataclass(frozen=True)
class Limits:
    """Of one base: how many requests run at once and how many more wait, and how long any of them may take.

    A base that needs the memory of others waits `patience_seconds` before those take no more requests.
    """

    concurrency: int = 32
    queue_length: int = 256
    request_seconds: float = 600.0
    patience_seconds: float = 5.0


@dataclass(frozen=True)
class WorkerSettings:
    """Where and in which precision to compute, how many sequences at once and how much of them a step."""

    dtype: torch.dtype
    device: torch.device
    limits: Limits
    step: StepSize
    int8: bool = False
    """Whether weights are packed into eight bits, where there is an implementation of that."""


@dataclass(frozen=True)
class Tally:
    """What the engine knows of its bases beyond their threads' lives; each thread writes what is its own base's."""

    generated: Counter[Path] = field(default_factory=Counter)
    """Tokens since the engine's start."""
    died: dict[Path, str] = field(default_factory=dict)
    """What ended a base's thread out of order, until the base is loaded again."""


class BaseWorker(threading.Thread):
    """One base, its line of requests, and the thread that serves them. Fields are guarded by `residency.changed`."""

    def __init__(
        self,
        folder: Path,
        plan: BasePlan,
        residency: "Residency[BaseWorker]",
        settings: WorkerSettings,
        tally: Tally,
    ) -> None:
        """`tally` outlives this thread."""
        super().__init__(name=f"decode-{folder.name}", daemon=True)
        self.folder = folder
        self.base: LoadedBase | None = None
        self.waiting = FairLine()
        self.running: list[ActiveSequence] = []
        self._residency = residency
        self._plan = plan
        self._settings = settings
        self._tally = tally
        self.step_since: float | None = None
        self._reserved = 0  # bytes of the weights being loaded
        self.short_of_room_since: float | None = None
        self._last_used = time.monotonic()

    @property
    def held_bytes(self) -> int:
        """Bytes of the loaded weights and of those being loaded."""
        return self._reserved + (self.base.total_bytes if self.base is not None else 0)

    def enqueue(self, handle: Handle) -> None:
        """Put a request in line; raises `EngineBusy` if the line is full."""
        limits = self._settings.limits
        if len(self.waiting) + len(self.running) >= limits.concurrency + limits.queue_length:
            raise EngineBusy(len(self.waiting))
        self.waiting.append(handle)
        self._residency.changed.notify_all()

    def evictable(self, requester: Holder) -> list[Evictable]:
        """Return its own idle adapters, or for another base all of it, if no sequence is running or loading."""
        base = self.base
        if base is None or self._reserved:
            return []
        if requester is not self:
            return [] if self.running else [Evictable(self._last_used, base.total_bytes, self._evict)]
        used = {sequence.adapter for sequence in self.running}
        return [
            Evictable(adapter.last_used, adapter.bytes, lambda folder=folder: base.drop_adapter(folder))  # type: ignore[misc]
            for folder, adapter in base.adapters.items()
            if folder not in used
        ]

    def run(self) -> None:
        """Serve until the engine closes, or until the base is evicted and nobody waits for it."""
        try:
            while self._work():
                pass
        except BaseException as error:
            outcome = InferenceError(f"the engine's thread for {self.folder} failed: {error}")
            self._tally.died[self.folder] = str(outcome)
            with self._residency.changed:
                self._leave(outcome)
            raise

    def _work(self) -> bool:
        """Do the next piece of work, waiting for it; False when there will be none. Keeps no hold on the base."""
        work = self._next_work()
        if isinstance(work, Load):
            self._load(work)
        elif work is not None:
            self.step_since = time.monotonic()
            self._tally.generated[self.folder] += decode_step(*work, self._settings.step, self._ended)
            self.step_since = None
        return work is not None

    def _next_work(self) -> Load | tuple[LoadedBase, list[ActiveSequence]] | None:
        """Wait for something to do; None ends the thread."""
        with self._residency.changed:
            while True:
                self._drop_ended()
                if self._residency.closing or not (self.base or self.waiting or self.running):
                    self._leave("cancelled")
                    return None
                if (load := self._admit()) is not None:
                    return load
                if self.running and self.base is not None:
                    return self.base, list(self.running)
                deadlines = [handle.deadline for handle in self.waiting]
                self._residency.changed.wait(max(0.0, min(deadlines) - time.monotonic()) if deadlines else None)

    def _admit(self) -> Load | None:
        """Let waiting requests run, in turn, while there are places; return what the next must have loaded."""
        while len(self.running) < self._settings.limits.concurrency and not self._residency.must_yield(self):
            handle = self.waiting.next([sequence.adapter for sequence in self.running])
            if handle is None:
                break
            adapter = handle.model.adapter
            if self.base is not None and (adapter is None or adapter in self.base.adapters):
                if not self._start(handle, self.base):
                    return None  # those behind wait as well: else a stream of short requests would starve a long one
                continue
            try:
                needed = self._needed_bytes(adapter)
            except WeightsError as error:
                self.waiting.remove(handle)
                handle.finish(error)
                continue
            if not self._residency.make_room(needed, self):
                self.short_of_room_since = self.short_of_room_since or time.monotonic()
                return None  # woken when somebody lets go of weights
            self.short_of_room_since = None
            self._reserved = needed
            return Load(handle, self.base, adapter)
        if not self.waiting:
            self.short_of_room_since = None
        return None

    def _start(self, handle: Handle, base: LoadedBase) -> bool:
        """Give a waiting request a range of the arena and let it run; False while no range is large enough."""
        start = base.space.reserve(len(handle.prompt_ids) + handle.max_new_tokens)
        if start is None:
            return False
        self.waiting.remove(handle)
        self.running.append(active_sequence(handle, base, start))
        self.short_of_room_since = None
        handle.begin()
        self._touch(handle.model.adapter)
        return True

    def _needed_bytes(self, adapter: Path | None) -> int:
        """Return the bytes still to load for a request with `adapter`; raises `WeightsError` if it can never fit."""
        loaded = self.base.bytes if self.base is not None else 0
        needed = 0 if self.base is not None else self._plan.weight_bytes + self._plan.cache_bytes
        if adapter is not None:
            settings = self._settings
            needed += needed_for_adapter(self.folder, adapter, settings.dtype, settings.device, int8=settings.int8)
        if loaded + needed > self._residency.budget_bytes:
            raise TooLargeForMemory(str(adapter or self.folder), loaded + needed, self._residency.budget_bytes)
        return needed

    def _load(self, load: Load) -> None:
        """Load what the request lacks and let it run. Its place in memory is reserved; no lock is held meanwhile."""
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
        with self._residency.changed:
            self._reserved = 0
            self.base = base
            if base is not None and adapter is not None and attached is not None:
                base.adapters[adapter] = attached
            if failure is None and base is not None:
                self._tally.died.pop(self.folder, None)
                # In the same breath: another base's thread could evict an idle base again before its request runs.
                self._start(load.handle, base)
            else:
                self.waiting.remove(load.handle)
            self._residency.changed.notify_all()
        if failure is not None:
            load.handle.finish(failure)

    def _ended(self, sequence: ActiveSequence, outcome: FinishReason | InferenceError) -> None:
        """Free the sequence's place, then tell its owner: who hears of the end finds the place free."""
        with self._residency.changed:
            self._retire(sequence)
        sequence.handle.finish(outcome)

    def _retire(self, sequence: ActiveSequence) -> None:
        """Take a sequence out of the batch and free its range."""
        self.running.remove(sequence)
        if self.base is not None:
            self.base.release(sequence.start)
        self._touch(sequence.adapter)
        self._residency.changed.notify_all()

    def _touch(self, adapter: Path | None) -> None:
        self._last_used = time.monotonic()
        if self.base is not None and adapter is not None:
            self.base.adapters[adapter].last_used = self._last_used

    def _drop_ended(self) -> None:
        """End what was cancelled, and what has taken longer than a request may."""
        now = time.monotonic()
        for handle in self.waiting:
            if (outcome := handle.must_end(now)) is not None:
                self.waiting.remove(handle)
                handle.finish(outcome)
        for sequence in list(self.running):
            if (outcome := sequence.handle.must_end(now)) is not None:
                self._retire(sequence)
                sequence.handle.finish(outcome)

    def _evict(self) -> None:
        """Let go of the base and its adapters; called by another base's thread, while this one decodes nothing."""
        self._let_go()
        self._residency.changed.notify_all()

    def _let_go(self) -> None:
        if self.base is not None:
            self.base.close()
        self.base = None

    def _leave(self, outcome: FinishReason | InferenceError) -> None:
        """End every request with `outcome` and take the base out of the engine's books."""
        self._let_go()
        self._residency.holders.pop(self.folder, None)
        for handle in [*self.waiting, *(sequence.handle for sequence in self.running)]:
            handle.finish(outcome)
        self.waiting.clear()
        self.running.clear()
        self._residency.changed.notify_all()
