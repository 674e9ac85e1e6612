"""Being told to stop, at a place of one's own choosing."""

import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def told_to_stop(numbers: Sequence[signal.Signals] = STOPS) -> Iterator[threading.Event]:
    """Give an event that is set once this process gets one of these signals.

    A KeyboardInterrupt is raised wherever the signal strikes: between a child's start and the note of it, or
    in a destructor, where it is lost.
    """
    told = threading.Event()
    before = {number: signal.signal(number, lambda *_: told.set()) for number in numbers}
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
