"""Threads without which a replica must not go on: it would take work and do half of what it owes."""

import logging
import os
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

EXIT_THREAD_DIED = 74


def start(body: Callable[[], None], is_over: Callable[[], bool]) -> None:
    """Run in a thread what goes on for ever; see `run`."""
    threading.Thread(target=run, args=(body, is_over), name=body.__name__, daemon=True).start()


def run(body: Callable[[], None], is_over: Callable[[], bool]) -> None:
    """Run what goes on for ever; if it fails the process ends, unless it does so anyway and closes things."""
    try:
        body()
    except Exception:
        if is_over():
            log.info("%s ended", body.__name__, exc_info=True)
            return
        log.critical("%s failed", body.__name__, exc_info=True)
        os._exit(EXIT_THREAD_DIED)
