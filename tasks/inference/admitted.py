"""The sequences admitted to one base: ranges of the KV arena that grow, and who gives way when the arena is full."""

from collections.abc import Callable, Iterator
from threading import Condition

from tasks.inference.base import LoadedBase
from tasks.inference.errors import InferenceError
from tasks.inference.request import Request
from tasks.inference.sequences import ActiveSequence, active_sequence

Ended = Callable[[ActiveSequence, InferenceError], None]


class AdmittedSequences:
    """All sequences that have begun, in the order of their admission: the running ones, then those swapped out.

    A range begins with room for the prompt and `share` tokens, and grows by a quarter, or `share` tokens if that is
    more. When it can't, the sequence admitted last gives way: its keys and values go to host memory, and come back
    before any other request is admitted. The first sequence never gives way, so there is always one that gets on.

    Only the decode thread changes this, under the engine's lock (`changed`); `prepare` takes that lock itself.
    """

    def __init__(self, share: int, changed: Condition, fits: Callable[[int], bool]) -> None:
        """`fits` makes room for so many bytes within the memory budget; it returns whether it could."""
        self.running: list[ActiveSequence] = []
        self.swapped: list[ActiveSequence] = []
        self._share = share
        self._changed = changed
        self._fits = fits

    def __len__(self) -> int:
        return len(self.running) + len(self.swapped)

    def __iter__(self) -> Iterator[ActiveSequence]:
        return iter([*self.running, *self.swapped])

    def host_bytes(self, base: LoadedBase) -> int:
        """Return the bytes of what is swapped out, with what would have to be if the running ones grew.

        Whoever was admitted behind one that may grow can have to give way, as may that one itself; never the first.
        """
        lengths = [base.allocator.length(sequence.start) for sequence in self.running]
        growing = (number for number, sequence in enumerate(self.running) if lengths[number] < sequence.limit)
        at_stake = lengths[max(1, next(growing, len(lengths))) :]
        return base.token_bytes * (sum(at_stake) + sum(sequence.cached for sequence in self.swapped))

    def admit(self, request: Request, base: LoadedBase) -> bool:
        """Begin a request with a range of the arena; False while there is too little room for it.

        What is left must suffice for the next growth of the running ones, so that they seldom give way.
        """
        limit = len(request.prompt_ids) + request.max_new_tokens
        tokens = self._longer(len(request.prompt_ids), limit)
        if self.swapped or not self._leaves_reserve(tokens, base):
            return False
        start = base.allocator.reserve(tokens)
        if start is None:
            return False
        self.running.append(active_sequence(request, base, start))
        if len(self.running) > 1 and not self._fits(0):
            self.remove(self.running[-1], base)
            return False
        return True

    def resume(self, base: LoadedBase) -> None:
        """Give ranges to those that gave way, the one admitted first before the others, while there is room."""
        while self.swapped:
            sequence = self.swapped[0]
            tokens = self._longer(max(sequence.cached, len(sequence.request.prompt_ids)), sequence.limit)
            if self.running and not (
                self._leaves_reserve(tokens, base) and self._fits((tokens - sequence.cached) * base.token_bytes)
            ):
                return
            start = base.allocator.reserve(tokens)
            if start is None:
                return
            sequence.start = start
            self.running.append(self.swapped.pop(0))

    def prepare(self, base: LoadedBase, ended: Ended) -> list[ActiveSequence]:
        """Return the running sequences, each with room for its next token. Call it without the lock.

        Keys and values are copied without the lock. One whose copy fails for want of memory ends.
        """
        for sequence in list(self.running):
            if sequence.swap_in is not None:
                self._try(self._swap_in, sequence, base, ended)
        for sequence in list(self.running):
            while sequence in self.running and sequence.cached >= base.allocator.length(sequence.start):
                if not self._grow(sequence, base):
                    self._try(self._swap_out, self.running[-1], base, ended)
        return list(self.running)

    def remove(self, sequence: ActiveSequence, base: LoadedBase) -> None:
        """Free what a sequence holds that has ended, whether it runs or is swapped out."""
        sequence.swap_in = None
        if sequence in self.running:
            self.running.remove(sequence)
            base.release(sequence.start)
        else:
            self.swapped.remove(sequence)

    def clear(self) -> None:
        """Forget all; for when their base is gone."""
        self.running.clear()
        self.swapped.clear()

    def _longer(self, tokens: int, limit: int) -> int:
        return min(limit, tokens + max(self._share, tokens // 4))

    def _leaves_reserve(self, tokens: int, base: LoadedBase) -> bool:
        """Whether the next growth of all running sequences has room beside a new range of `tokens`."""
        lengths = [(base.allocator.length(sequence.start), sequence.limit) for sequence in self.running]
        reserve = sum(self._longer(length, limit) - length for length, limit in lengths)
        return base.allocator.capacity - base.allocator.used - tokens >= reserve

    def _grow(self, sequence: ActiveSequence, base: LoadedBase) -> bool:
        """Lengthen the range of a running sequence, in place or by moving it; False if there is no room for it."""
        with self._changed:
            start, length = sequence.start, base.allocator.length(sequence.start)
            least = min(sequence.limit, length + max(1, self._share // 4))
            for tokens in (self._longer(length, sequence.limit), least):
                if sequence is not self.running[0] and not self._fits((tokens - length) * base.token_bytes):
                    continue
                found = base.allocator.extend(start, tokens)
                if found is not None:
                    sequence.start = found
                    break
            else:
                return False
        if sequence.start != start:
            base.arena.move(start, sequence.start, sequence.cached)
        return True

    def _swap_out(self, sequence: ActiveSequence, base: LoadedBase) -> None:
        """Take the range of the sequence that was admitted last."""
        swap_in = base.arena.swap_out(sequence.start, sequence.cached)
        with self._changed:
            self.remove(sequence, base)
            sequence.swap_in = swap_in
            self.swapped.insert(0, sequence)

    def _swap_in(self, sequence: ActiveSequence, base: LoadedBase) -> None:
        """Bring a sequence's keys and values to its new range."""
        del base
        swap_in, sequence.swap_in = sequence.swap_in, None
        if swap_in is not None:
            swap_in(sequence.start)

    def _try(
        self,
        copy: Callable[[ActiveSequence, LoadedBase], None],
        sequence: ActiveSequence,
        base: LoadedBase,
        ended: Ended,
    ) -> None:
        try:
            copy(sequence, base)
        except (RuntimeError, MemoryError) as error:  # torch has no error of its own for the CPU's memory
            ended(sequence, InferenceError(f"the keys and values of a running request could not be swapped: {error}"))
