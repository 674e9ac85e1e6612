"""Shared hosts for tests."""

from dataclasses import replace

from orchestrator.core.profile import SharedHost
from stages.types import Stage

_PLAIN = SharedHost(
    cores=1,
    slice_s=0.004,
    seek=1.0,
    stolen=0.0,
    request_s=0.5e-3,
    hop_s=0.4e-3,
    event_s=0.05e-3,
    store_hop_s=0.2e-3,
    store_write_s=0.05e-3,
    worker_hop_s={Stage.ENCODE: 0.0, Stage.PREFILL: 1e-3, Stage.DECODE: 1.2e-3},
)


def machine(**changes) -> SharedHost:
    """Return a machine of one core without unevenness, but for the changes."""
    return replace(_PLAIN, **changes)
