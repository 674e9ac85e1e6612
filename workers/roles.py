"""A replica whose stage may change: prefill becomes decode or the reverse, and its engine server stays.

Somebody writes the other stage into a file. The replica drains and ends, as if it were to go for good, and
whoever keeps it running starts it again. Then it has its server change, and registers as of its new stage.
"""

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec

from stages.types import Stage
from workers.config import Roles, WorkerConfig
from workers.ledger import WorkerLedger, connect

log = logging.getLogger(__name__)

LOOK_S = 0.5


def told(roles: Roles) -> Stage | None:
    """Return the stage that a replica is told to do, None if it is told none of those that it may do."""
    try:
        text = Path(roles.file).read_text().strip()
    except OSError:
        return None
    return next((stage for stage in roles.slots if stage == text), None)


def as_told(config: WorkerConfig) -> WorkerConfig:
    """Return the configuration of the stage that a replica is told to do."""
    stage = told(config.roles) if config.roles else None
    if config.roles is None or stage is None:
        return config
    slots = config.roles.slots[stage]
    limits = replace(config.limits, max_batch=slots)
    return msgspec.structs.replace(config, stage=stage, slots=slots, limits=limits)


def watching(config: WorkerConfig) -> list[Callable[[], None]]:
    """Return what goes on in a replica whose stage may change, until it does; nothing in most."""
    roles = config.roles
    if roles is None:
        return []

    def watch_role() -> None:
        while told(roles) in (None, config.stage):
            time.sleep(LOOK_S)
        log.info("told to %s from now on", told(roles))
        os.kill(os.getpid(), signal.SIGTERM)  # blocked in all threads: the main one waits for it, and drains

    return [watch_role]


def peers(config: WorkerConfig) -> tuple[str, ...]:
    """Return where others do what a replica whose stage may change is to do now."""
    if config.roles is None:
        return ()
    ledger = WorkerLedger(connect(config.redis_url), config.replica_id, config.stage)
    there = ledger.replicas(config.model)
    return tuple(each.peer_url for each in there if each.stage is config.stage and each.peer_url)
