"""Asks the device for a sum: a port that answers does not tell that anything can still be computed behind it."""

import threading
import time

import torch

SUMMED = 64


class DeviceProbe:
    """Computes a small sum on a thread of its own, as a device that hangs must not take the asker along."""

    def __init__(self, device: torch.device, patience_seconds: float, interval_seconds: float) -> None:
        """An answer holds for `interval_seconds`; a device that takes longer than `patience_seconds` hangs."""
        self._device = device
        self._patience = patience_seconds
        self._interval = interval_seconds
        self._lock = threading.Lock()
        self._begun_at: float | None = None
        self._answered_at = float("-inf")
        self._trouble: str | None = None

    def trouble(self) -> str | None:
        """Return what is wrong with the device, as a sentence's part; None if it computed when last asked.

        Returns at once: what it starts is heard of by the next call.
        """
        now = time.monotonic()
        with self._lock:
            if self._begun_at is None and now - self._answered_at >= self._interval:
                self._begun_at = now
                threading.Thread(target=self._compute, name="device-probe", daemon=True).start()
            if self._begun_at is not None and now - self._begun_at > self._patience:
                return f"{self._device} has not finished a sum of {SUMMED} numbers for {now - self._begun_at:.0f} s"
            return self._trouble

    def _compute(self) -> None:
        try:
            found = int(torch.arange(SUMMED, dtype=torch.int64, device=self._device).sum())
            wanted = SUMMED * (SUMMED - 1) // 2
            trouble = None if found == wanted else f"{self._device} sums numbers to {found}, not to {wanted}"
        except Exception as error:  # noqa: BLE001 - the thread's edge: it becomes what the engine says of itself
            trouble = (
                f"{self._device} can't compute: {str(error).strip().splitlines()[0][:200] or type(error).__name__}"
            )
        with self._lock:
            self._begun_at, self._answered_at, self._trouble = None, time.monotonic(), trouble
