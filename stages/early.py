"""Signals that overtook the job that they are about."""

import time
from collections import OrderedDict

_REMEMBER_S = 600.0
_REMEMBER_KEYS = 65536


class EarlySignals:
    """Cancels and pauses, by `Job.key`, kept for a bounded time. One thread."""

    def __init__(self) -> None:
        self._cancelled: OrderedDict[str, float] = OrderedDict()
        self._paused: OrderedDict[str, float] = OrderedDict()

    def cancel(self, key: str) -> None:
        """Keep a cancel."""
        _remember(self._cancelled, key)

    def pause(self, key: str, paused: bool) -> None:
        """Keep a pause, or take one back."""
        if paused:
            _remember(self._paused, key)
        else:
            self._paused.pop(key, None)

    def take_cancel(self, key: str) -> bool:
        """Return whether there is a cancel for this key, and forget it."""
        return self._cancelled.pop(key, None) is not None

    def take_pause(self, key: str) -> bool:
        """Return whether there is a pause for this key, and forget it."""
        return self._paused.pop(key, None) is not None


def _remember(signals: OrderedDict[str, float], key: str) -> None:
    now_s = time.monotonic()
    signals[key] = now_s
    signals.move_to_end(key)
    while len(signals) > _REMEMBER_KEYS or next(iter(signals.values())) < now_s - _REMEMBER_S:
        signals.popitem(last=False)
