"""How fast a replica works when it has work."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HALF_LIFE_S = 20.0
"""Busy seconds after which an observation counts half."""


class Meter:
    """Tokens per busy second, and totals. Thread-safe.

    Busy is the time with at least one job in progress, so idle time does not lower the rate.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs = 0
        self._since_s = 0.0
        self._tokens = 0.0
        self._busy_s = 0.0
        self._total_busy_s = 0.0
        self.total_tokens = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Mark one job as in progress."""
        with self._lock:
            self._settle()
            self._jobs += 1
        try:
            yield
        finally:
            with self._lock:
                self._settle()
                self._jobs -= 1

    def count(self, tokens: int) -> None:
        """Add finished work."""
        with self._lock:
            self._tokens += tokens
            self.total_tokens += tokens

    def rate_tokens_per_s(self) -> float:
        """Return recent tokens per busy second, 0.0 before 50 ms of work."""
        with self._lock:
            self._settle()
            return self._tokens / self._busy_s if self._busy_s > 0.05 else 0.0

    def busy_s(self) -> float:
        """Return all seconds with at least one job in progress, up to now."""
        with self._lock:
            self._settle()
            return self._total_busy_s

    def _settle(self) -> None:
        now_s = time.monotonic()
        if self._jobs:
            busy_s = now_s - self._since_s
            self._total_busy_s += busy_s
            self._busy_s += busy_s
            keep = 0.5 ** (busy_s / HALF_LIFE_S)
            self._busy_s *= keep
            self._tokens *= keep
        self._since_s = now_s
